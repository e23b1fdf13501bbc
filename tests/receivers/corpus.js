// Judges a corpus with the Express receiver's own function: JSON lines {body: hex, header: string|null} in,
// one of `accept`, `refuse`, `throw` a line out.
'use strict';

const { verifySignature } = require('./express.js');

const lines = require('node:fs').readFileSync(0, 'utf8').split('\n').filter(Boolean);
for (const line of lines) {
  const { body, header } = JSON.parse(line);
  try {
    console.log(verifySignature(Buffer.from(body, 'hex'), header, process.env.WEBHOOK_SECRET) ? 'accept' : 'refuse');
  } catch {
    console.log('throw');
  }
}
