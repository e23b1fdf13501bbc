// The providers' Node SDKs behind one pipe: a JSON object per line in, one per line out, as
// described in `README.md`. The driver only translates to each SDK's call; the SDK decides the
// verdict, and the tests check it. The packages are in HOOKSTILE_NODE_MODULES.

import { Console } from 'node:console';
import { createRequire } from 'node:module';
import { createInterface } from 'node:readline';
import { pathToFileURL } from 'node:url';

// SDKs log to the console (Zoom's logs every event), so stdout is reserved for responses.
globalThis.console = new Console(process.stderr);

const { resolve } = createRequire(`${process.env.HOOKSTILE_NODE_MODULES}/`);

async function load(name) {
  const module = await import(pathToFileURL(resolve(name)));
  return module.default ?? module;
}

function header(headers, name) {
  const found = Object.keys(headers).find((key) => key.toLowerCase() === name);
  return found && headers[found];
}

// Standard Webhooks and its Svix dialect differ only in the header names.
function standard(Webhook, prefix) {
  return {
    sign: ({ secret, id, timestamp, body }) => ({
      [`${prefix}-id`]: id,
      [`${prefix}-timestamp`]: String(timestamp),
      [`${prefix}-signature`]: new Webhook(secret).sign(id, new Date(timestamp * 1000), body),
    }),
    // It returns the parsed body, which may be any value, and rejects by throwing.
    verify: ({ secret, headers, body }) => (new Webhook(secret).verify(body, headers), true),
  };
}

// The operations of each SDK: `sign` returns headers, `verify` a boolean or an exception, `answer`
// an HTTP response. Bodies are Buffers; `String(body)` is for SDKs that accept only strings.
const sdks = {
  async stripe() {
    const { webhooks } = await load('stripe');
    return {
      sign: ({ secret, timestamp, body }) => ({
        'Stripe-Signature': webhooks.generateTestHeaderString({ secret, timestamp, payload: String(body) }),
      }),
      verify: ({ secret, headers, body }) =>
        Boolean(webhooks.constructEvent(body, header(headers, 'stripe-signature'), secret)),
    };
  },

  async '@octokit/webhooks-methods'() {
    // Loaded by path: the package has no export for `require`.
    const { sign, verify } = await load('./@octokit/webhooks-methods/dist-node/index.js');
    return {
      sign: async ({ secret, body }) => ({ 'X-Hub-Signature-256': await sign(secret, String(body)) }),
      verify: ({ secret, headers, body }) => verify(secret, String(body), header(headers, 'x-hub-signature-256')),
    };
  },

  async standardwebhooks() {
    return standard((await load('standardwebhooks')).Webhook, 'webhook');
  },

  async svix() {
    return standard((await load('svix')).Webhook, 'svix');
  },

  async '@shopify/shopify-api'() {
    await load('@shopify/shopify-api/adapters/node');
    const { shopifyApi, ApiVersion } = await load('@shopify/shopify-api');
    return {
      async verify({ secret, headers, body }) {
        const shopify = shopifyApi({
          apiKey: 'unused',
          apiSecretKey: secret,
          apiVersion: ApiVersion.Unstable,
          hostName: 'receiver.example',
          isEmbeddedApp: false,
        });
        const verdict = await shopify.webhooks.validate({
          rawBody: String(body),
          rawRequest: { method: 'POST', url: '/', headers },
        });
        if (!verdict.valid) throw new Error(verdict.reason);
        return true;
      },
    };
  },

  async '@linear/sdk'() {
    const { LinearWebhookClient } = await load('@linear/sdk/webhooks');
    return {
      verify: ({ secret, headers, body }) =>
        new LinearWebhookClient(secret).verify(body, header(headers, 'linear-signature')),
    };
  },

  async '@paddle/paddle-node-sdk'() {
    const { Paddle } = await load('@paddle/paddle-node-sdk');
    const { webhooks } = new Paddle('unused');
    return {
      verify: ({ secret, headers, body }) =>
        webhooks.isSignatureValid(String(body), secret, header(headers, 'paddle-signature')),
    };
  },

  async 'discord-interactions'() {
    const { verifyKey } = await load('discord-interactions');
    return {
      verify: ({ secret, headers, body }) =>
        verifyKey(body, header(headers, 'x-signature-ed25519'), header(headers, 'x-signature-timestamp'), secret),
    };
  },

  async '@zoom/rivet'() {
    const { AwsLambdaReceiver } = await load('@zoom/rivet/meetings');
    // The verifier itself is private; the Lambda receiver is the only entry that opens no port.
    const receive = ({ secret, headers, body }) =>
      new AwsLambdaReceiver({ webhooksSecretToken: secret }).start()({ headers, body: String(body) });
    return {
      async verify(request) {
        const response = await receive(request);
        if (response.statusCode !== 200) throw new Error(response.body);
        return true;
      },
      // The response to Zoom's `endpoint.url_validation`.
      answer: async (request) => {
        const { statusCode, body } = await receive(request);
        return { status: statusCode, body };
      },
    };
  },
};

async function answer(line) {
  const { sdk, op, ...request } = JSON.parse(line);
  if (!Object.hasOwn(sdks, sdk)) throw new Error(`no SDK ${sdk}`);
  const operations = await sdks[sdk]();
  if (!Object.hasOwn(operations, op)) throw new Error(`${sdk} has no ${op}`);
  request.body = Buffer.from(request.body, 'base64');
  if (op === 'sign') return { headers: await operations.sign(request) };
  if (op === 'answer') return { answer: await operations.answer(request) };
  try {
    return (await operations.verify(request)) ? { verified: true } : { verified: false, error: 'refused' };
  } catch (error) {
    return { verified: false, error: error.message };
  }
}

for await (const line of createInterface({ input: process.stdin })) {
  const reply = await answer(line).catch((error) => ({ error: error.message }));
  process.stdout.write(`${JSON.stringify(reply)}\n`);
}
