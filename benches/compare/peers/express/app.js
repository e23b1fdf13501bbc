// The provider's sample for Express (tests/receivers), with room for a body of 1 MiB.
'use strict';

const express = require('express');
const { verifySignature } = require('../../../../tests/receivers/express.js');

const app = express();
app.use('/webhooks', express.raw({ type: 'application/json', limit: '1mb' }));
app.post('/webhooks/vpn-enterprise', (req, res) => {
  if (!verifySignature(req.body, req.headers['x-vpn-signature'], process.env.WEBHOOK_SECRET)) {
    return res.status(401).send('Unauthorized');
  }
  const event = JSON.parse(req.body);
  console.log(`event ${event.type} ${event.id}`);
  res.status(200).send('OK');
});
app.listen(Number(process.env.PORT), '127.0.0.1');
