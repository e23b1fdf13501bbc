// A receiver as the provider's documentation describes one for Node: Express, the raw body,
// HMAC-SHA256 in hex, an optional `sha256=` prefix, a constant-time comparison. It knows nothing of
// the gateway. It needs `express` (NODE_PATH) and WEBHOOK_SECRET, and prints the port it listens
// on.
'use strict';

const crypto = require('node:crypto');

function verifySignature(rawBody, signature, secret) {
  const expected = crypto.createHmac('sha256', secret).update(rawBody).digest('hex');
  const given = signature.startsWith('sha256=') ? signature.slice('sha256='.length) : signature;
  // Throws when the lengths differ; the documentation does not handle that case either.
  return crypto.timingSafeEqual(Buffer.from(given), Buffer.from(expected));
}

function main() {
  const express = require('express');
  const secret = process.env.WEBHOOK_SECRET;
  const app = express();

  app.use('/webhooks', express.raw({ type: 'application/json' }));

  app.post('/webhooks/vpn-enterprise', (req, res) => {
    if (!verifySignature(req.body, req.headers['x-vpn-signature'], secret)) {
      return res.status(401).send('Unauthorized');
    }
    const event = JSON.parse(req.body);
    console.log(`event ${event.type} ${event.id}`);
    res.status(200).send('OK');
  });

  const server = app.listen(Number(process.env.PORT || 0), '127.0.0.1', () => {
    console.log(`listening on 127.0.0.1:${server.address().port}`);
  });
}

module.exports = { verifySignature };

if (require.main === module) {
  main();
}
