// A browser on the dashboard: Debian's Chromium, driven by Playwright. The first argument is the
// scenario; the second is JSON with the gateway's admin listener and the scenario's data. A failure
// throws. The packages are in HOOKSTILE_NODE_MODULES.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const { resolve } = createRequire(`${process.env.HOOKSTILE_NODE_MODULES}/`);
const playwright = await import(pathToFileURL(resolve('playwright-core')));
const { chromium } = playwright.default ?? playwright;

const [, , scenario, argument] = process.argv;
const { base, token, ...data } = JSON.parse(argument);

const browser = await chromium.launch({
  executablePath: process.env.HOOKSTILE_CHROMIUM,
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
  ],
});

// Opens a page that fails on any problem: a script error, a violation of the content security
// policy, or an unexpected dialog.
async function open(options = {}) {
  const context = await browser.newContext({ viewport: { width: 1280, height: 900 }, ...options });
  context.setDefaultTimeout(15_000);
  const page = await context.newPage();
  const wrong = [];
  page.on('pageerror', (error) => wrong.push(error.message));
  page.on('console', (message) => {
    const harmless = message.type() !== 'error' || message.text().includes('401 (Unauthorized)');
    if (!harmless) wrong.push(message.text());
  });
  page.on('request', (request) => {
    if (new URL(request.url()).origin !== base) wrong.push(`asked elsewhere: ${request.url()}`);
  });
  page.dialogs = [];
  page.on('dialog', (dialog) => {
    page.dialogs.push(dialog.message());
    return dialog.accept();
  });
  page.verify = () => assert.deepEqual(wrong, []);
  return page;
}

async function logIn(page, path = '/', as = token) {
  await page.goto(base + path);
  await page.fill('#token', as);
  await page.click('main button');
  await page.waitForURL(base + path);
}

const pages = () => ['/', `/ui/routes/${data.route}`, '/ui/events', `/ui/events/${data.delivery}`, '/ui/rejections'];

const scenarios = {
  async login() {
    const page = await open();
    const response = await page.goto(`${base}/ui/events?status=dead`);
    assert.equal(response.status(), 401);
    await page.fill('#token', 'wrong');
    await page.click('main button');
    assert.match(await page.textContent('[role=alert]'), /wrong or has expired/);
    await page.fill('#token', token);
    await page.click('main button');
    await page.waitForURL(`${base}/ui/events?status=dead`);
    const [cookie, ...more] = await page.context().cookies();
    assert.deepEqual([cookie.httpOnly, cookie.sameSite, cookie.path, more.length], [true, 'Strict', '/', 0]);
    assert.ok(!cookie.value.includes(token));
    await page.click('text=Log out');
    await page.waitForSelector('#token');
    assert.deepEqual(await page.context().cookies(), []);
    await page.context().addCookies([cookie]);
    assert.equal((await page.goto(`${base}/`)).status(), 401, 'the session has ended, not only its cookie');
    page.verify();
  },

  async reading() {
    const page = await open({ javaScriptEnabled: false });
    await logIn(page);
    const row = page.locator('tr', { hasText: data.route });
    assert.match(await row.textContent(), /queue/);
    await row.locator('a').click();
    assert.match(await page.textContent('main'), /The signature is well formed, but none of the route's secrets makes it/);
    assert.ok(!(await page.isVisible('.actions')), 'buttons that would do nothing');
    await page.fill('#search', data.event);
    await page.press('#search', 'Enter');
    await page.click('a.open');
    const steps = await page.locator('.timeline li strong').allTextContents();
    assert.deepEqual(steps, data.steps);
    const timeline = await page.textContent('.timeline');
    assert.ok(timeline.includes('with the secret current') && timeline.includes('the upstream answered 422'), timeline);
    const headers = await page.textContent('.headers');
    assert.ok(headers.includes('X-VPN-Signature') && !headers.includes('sha256='), headers);
    assert.ok((await page.textContent('[aria-labelledby=body] pre')).includes(data.event));
    assert.ok(await page.isVisible('text=hookstile events redeliver'));
    page.verify();
  },

  async acting() {
    const page = await open();
    await logIn(page, `/ui/routes/${data.route}`);
    await page.click('text=Redeliver the dead letters');
    await page.waitForSelector('#message:has-text("1 of 1 will be delivered again")');
    assert.match(page.dialogs[0], /Deliver 1 of 1 again/);
    await page.click('text=Send a test event');
    await page.waitForSelector('#message:has-text("queued, status 202")');
    await page.click('text=Pause the queue');
    await page.waitForSelector('text=Resume the queue');
    assert.match(await page.textContent('.problems'), /paused/);
    await page.click('text=Resume the queue');
    await page.waitForSelector('text=Pause the queue');
    await page.goto(`${base}/ui/events/${data.delivery}`);
    await page.waitForSelector('h1 .status.success');
    page.verify();
  },

  // A single delivery, whose redelivery is first refused with a reason.
  async redelivering() {
    const page = await open();
    await logIn(page, `/ui/events/${data.delivery}`);
    await page.click('button:has-text("Redeliver")');
    await page.waitForSelector('#message:has-text("will be delivered again")');
    await page.waitForSelector('h1 .status.success');
    page.verify();
  },

  async readOnly() {
    const page = await open();
    for (const path of pages()) {
      await (path === '/' ? logIn(page) : page.goto(base + path));
      assert.equal(await page.locator('[data-post]').count(), 0, path);
    }
    page.verify();
  },

  // Text from senders is shown as it is and has no effect.
  async hostile() {
    const page = await open();
    await logIn(page);
    for (const path of pages()) {
      await page.goto(base + path);
      const text = await page.textContent('main');
      if (path.startsWith('/ui/events')) assert.ok(text.includes(data.event), `${path}: ${text}`);
      if (path === '/ui/rejections') assert.ok(text.includes(data.userAgent), text);
      assert.equal(await page.locator('main :is(script, img, iframe, [onerror], [onclick])').count(), 0, path);
      assert.equal(await page.evaluate(() => globalThis.pwned), undefined, path);
    }
    assert.ok((await page.goto(`${base}/ui/events/${data.delivery}`)) && (await page.textContent('[aria-labelledby=body] pre')).includes(data.body));
    const search = `/ui/events?event_id=${encodeURIComponent('"><script>pwned=1</script>')}`;
    await page.goto(base + search);
    assert.equal(await page.inputValue('#search'), '"><script>pwned=1</script>');
    const inline = await page.evaluate(() => {
      document.body.insertAdjacentHTML('beforeend', '<img src=x onerror="pwned=1">');
      return new Promise((done) => document.addEventListener('securitypolicyviolation', (seen) => done(seen.violatedDirective)));
    });
    assert.match(inline, /script-src/);
    assert.deepEqual([await page.evaluate(() => globalThis.pwned), page.dialogs], [undefined, []]);
  },

  // Prints a line when the page is loaded, then waits for its updates.
  async updating() {
    const page = await open();
    await logIn(page, '/ui/events');
    await page.evaluate(() => { globalThis.loaded = 'once'; });
    console.log('watching');
    await page.waitForSelector(`a.open:has-text("${data.event}")`);
    assert.equal(await page.evaluate(() => globalThis.loaded), 'once', 'the page was not loaded again');
    page.verify();
  },

  async keys() {
    const page = await open();
    await logIn(page);
    await page.keyboard.press('g');
    await page.keyboard.press('e');
    await page.waitForURL(`${base}/ui/events`);
    await page.keyboard.press('j');
    await page.keyboard.press('Enter');
    await page.waitForURL(/\/ui\/events\/del_/);
    await page.keyboard.press('/');
    await page.keyboard.type(data.event);
    await page.keyboard.press('Enter');
    await page.waitForURL(/event_id=/);
    await page.keyboard.press('l');
    assert.equal(await page.textContent('#live'), 'still');
    await page.keyboard.press('?');
    assert.ok(await page.isVisible('#keys'));
    page.verify();
  },

  // On a phone nothing overflows, the dark scheme is dark, and the page is accessible.
  async everywhere() {
    const axe = readFileSync(resolve('axe-core/axe.min.js'), 'utf8');
    for (const colorScheme of ['light', 'dark']) {
      const page = await open({ colorScheme, viewport: { width: 390, height: 844 }, bypassCSP: true });
      await page.goto(base);
      await judge(page, axe, 'the login');
      await logIn(page);
      for (const path of pages()) {
        await page.goto(base + path);
        await judge(page, axe, `${path}, ${colorScheme}`);
        const [r, g, b] = await page.evaluate(() => getComputedStyle(document.body).backgroundColor.match(/\d+/g).map(Number));
        assert.equal(r + g + b < 200, colorScheme === 'dark', path);
      }
      page.verify();
    }
  },

  // Takes the pictures for the documentation.
  async pictures() {
    const page = await open({ viewport: { width: 1180, height: 760 } });
    await logIn(page);
    await page.waitForSelector('rect.accepted');
    await page.screenshot({ path: `${data.folder}/dashboard.png` });
    await page.goto(`${base}/ui/events/${data.delivery}`);
    await page.screenshot({ path: `${data.folder}/dashboard-event.png` });
    const phone = await open({ viewport: { width: 390, height: 760 }, colorScheme: 'dark' });
    await logIn(phone);
    await phone.screenshot({ path: `${data.folder}/dashboard-phone.png` });
  },
};

async function judge(page, axe, where) {
  const [scrolls, shows] = await page.evaluate(() => [document.documentElement.scrollWidth, innerWidth]);
  assert.ok(scrolls <= shows, `${where}: ${scrolls} pixels wide on a screen of ${shows}`);
  await page.evaluate(axe);
  const { violations } = await page.evaluate(() => globalThis.axe.run());
  const told = violations.map(({ id, nodes }) => `${id}: ${nodes.map((node) => node.html).slice(0, 3).join(' ')}`);
  assert.deepEqual(told, [], where);
}

try {
  await scenarios[scenario]();
} finally {
  await browser.close();
}
