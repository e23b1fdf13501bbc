// HMAC-SHA256 by njs's own crypto module. njs has no constant-time comparison: this one compares every character.
import crypto from 'crypto';

const secret = process.env.WEBHOOK_SECRET;

function isEqual(a, b) {
  let difference = a.length ^ b.length;
  for (let i = 0; i < a.length; i++) {
    difference |= a.charCodeAt(i) ^ b.charCodeAt(i);
  }
  return difference === 0;
}

function check(r) {
  const given = (r.headersIn['X-VPN-Signature'] || '').replace('sha256=', '');
  const expected = crypto.createHmac('sha256', secret).update(r.requestBuffer).digest('hex');
  if (isEqual(expected, given)) {
    r.internalRedirect('@application');
  } else {
    r.return(401);
  }
}

export default { check };
