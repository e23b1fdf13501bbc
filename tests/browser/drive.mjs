// A browser at the dashboard: Debian's Chromium, driven by Playwright. What is to be done is the first argument, the
// gateway's admin listener and what else there is to know are JSON in the second. Fails by throwing; packages are those
// of HOOKSTILE_NODE_MODULES.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { pathToFileURL } from 'node:url';

const { resolve } = createRequire(`${process.env.HOOKSTILE_NODE_MODULES}/`);
const playwright = await import(pathToFileURL(resolve('playwright-core')));
const { chromium } = playwright.default ?? playwright;

const [, , scenario, given] = process.argv;
const { base, token, ...known } = JSON.parse(given);

const browser = await chromium.launch({
  executablePath: process.env.HOOKSTILE_CHROMIUM,
  args: [
    '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
  ],
});

// A page that fails on whatever goes wrong in it: an error of a script, something that the policy keeps out, a dialog
// that nobody asked for.
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

const pages = () => ['/', `/ui/routes/${known.route}`, '/ui/events', `/ui/events/${known.delivery}`, '/ui/rejections'];

const scenarios = {
  async login() {
    const page = await open();
    const answer = await page.goto(`${base}/ui/events?status=dead`);
    assert.equal(answer.status(), 401);
    await page.fill('#token', 'wrong');
    await page.click('main button');
    assert.match(await page.textContent('[role=alert]'), /not the token/);
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
    const row = page.locator('tr', { hasText: known.route });
    assert.match(await row.textContent(), /queue/);
    await row.locator('a').click();
    assert.match(await page.textContent('main'), /The signature is well formed, and none of the route's secrets makes it/);
    assert.ok(!(await page.isVisible('.actions')), 'buttons that would do nothing');
    await page.fill('#search', known.event);
    await page.press('#search', 'Enter');
    await page.click('a.open');
    const steps = await page.locator('.timeline li strong').allTextContents();
    assert.deepEqual(steps, known.steps);
    const timeline = await page.textContent('.timeline');
    assert.ok(timeline.includes('with the secret current') && timeline.includes('the upstream answered 404'), timeline);
    const headers = await page.textContent('.headers');
    assert.ok(headers.includes('X-VPN-Signature') && !headers.includes('sha256='), headers);
    assert.ok((await page.textContent('pre')).includes(known.event));
    assert.ok(await page.isVisible('text=hookstile events redeliver'));
    page.verify();
  },

  async acting() {
    const page = await open();
    await logIn(page, `/ui/routes/${known.route}`);
    await page.click('text=Redeliver the dead letters');
    await page.waitForSelector('#said:has-text("1 of 1 will be delivered again")');
    assert.match(page.dialogs[0], /Deliver 1 of 1 again/);
    await page.click('text=Send a test event');
    await page.waitForSelector('#said:has-text("queued, status 202")');
    await page.click('text=Pause the queue');
    await page.waitForSelector('text=Resume the queue');
    assert.match(await page.textContent('.troubles'), /paused/);
    await page.click('text=Resume the queue');
    await page.waitForSelector('text=Pause the queue');
    await page.goto(`${base}/ui/events/${known.delivery}`);
    await page.waitForSelector('h1 .status.success');
    page.verify();
  },

  // One delivery alone, refused first for a reason that is told.
  async redelivering() {
    const page = await open();
    await logIn(page, `/ui/events/${known.delivery}`);
    await page.click('button:has-text("Redeliver")');
    await page.waitForSelector('#said:has-text("will be delivered again")');
    await page.waitForSelector('h1 .status.success');
    page.verify();
  },

  async looking() {
    const page = await open();
    for (const path of pages()) {
      await (path === '/' ? logIn(page) : page.goto(base + path));
      assert.equal(await page.locator('[data-post]').count(), 0, path);
    }
    page.verify();
  },

  // Whatever senders put in: it is shown as it is, and does nothing.
  async hostile() {
    const page = await open();
    await logIn(page);
    for (const path of pages()) {
      await page.goto(base + path);
      const text = await page.textContent('main');
      if (path.startsWith('/ui/events')) assert.ok(text.includes(known.event), `${path}: ${text}`);
      if (path === '/ui/rejections') assert.ok(text.includes(known.userAgent), text);
      assert.equal(await page.locator('main :is(script, img, iframe, [onerror], [onclick])').count(), 0, path);
      assert.equal(await page.evaluate(() => globalThis.pwned), undefined, path);
    }
    assert.ok((await page.goto(`${base}/ui/events/${known.delivery}`)) && (await page.textContent('pre')).includes(known.body));
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

  // Prints a line when the page is up, and waits for what comes then.
  async living() {
    const page = await open();
    await logIn(page, '/ui/events');
    await page.evaluate(() => { globalThis.loaded = 'once'; });
    console.log('watching');
    await page.waitForSelector(`a.open:has-text("${known.event}")`);
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
    await page.keyboard.type(known.event);
    await page.keyboard.press('Enter');
    await page.waitForURL(/event_id=/);
    await page.keyboard.press('l');
    assert.equal(await page.textContent('#live'), 'still');
    await page.keyboard.press('?');
    assert.ok(await page.isVisible('#keys'));
    page.verify();
  },

  // On a phone nothing sticks out; in the dark it is dark; and whoever can't see it can use it.
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

  // For the documentation.
  async pictures() {
    const page = await open({ viewport: { width: 1180, height: 760 } });
    await logIn(page);
    await page.waitForSelector('rect.taken');
    await page.screenshot({ path: `${known.folder}/dashboard.png` });
    await page.goto(`${base}/ui/events/${known.delivery}`);
    await page.screenshot({ path: `${known.folder}/dashboard-event.png` });
    const phone = await open({ viewport: { width: 390, height: 760 }, colorScheme: 'dark' });
    await logIn(phone);
    await phone.screenshot({ path: `${known.folder}/dashboard-phone.png` });
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
