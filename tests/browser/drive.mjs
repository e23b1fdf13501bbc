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

const PHONE = { viewport: { width: 390, height: 844 } };
const DESK = { viewport: { width: 1440, height: 900 } };
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

  // Times are UTC in the page, and local with UTC on hover where scripts run.
  async times() {
    const plain = await open({ javaScriptEnabled: false });
    await logIn(plain, `/ui/events/${data.delivery}`);
    const utc = await plain.textContent('.timeline time');
    assert.match(utc, /^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} UTC$/);
    const page = await open({ timezoneId: 'Asia/Kathmandu' });
    await logIn(page, `/ui/events/${data.delivery}`);
    const time = page.locator('.timeline time').first();
    const at = new Date((await time.getAttribute('datetime')));
    const local = new Date(at.getTime() + (5 * 60 + 45) * 60_000).toISOString().slice(0, 23).replace('T', ' ');
    assert.equal(await time.textContent(), local);
    assert.equal(await time.getAttribute('title'), utc);
    await page.goto(`${base}/ui/events`);
    const ago = page.locator('td.when time').first();
    assert.match(await ago.textContent(), /ago|just now/);
    assert.ok((await ago.getAttribute('title')).startsWith(`${local.slice(0, 19)} (`));
    // The form's times are local, and are sent in UTC.
    await page.click('summary');
    await page.fill('[name=since]', local.slice(0, 16).replace(' ', 'T'));
    await page.click('main .primary');
    // The script has run when the page is loaded.
    await page.waitForURL(/since=/, { waitUntil: 'load' });
    const since = new URL(page.url()).searchParams.get('since');
    assert.equal(new Date(since).getTime(), Math.floor(at.getTime() / 60_000) * 60_000);
    assert.equal((await page.inputValue('[name=since]')).slice(0, 16), local.slice(0, 16).replace(' ', 'T'));
    assert.equal(await page.locator('a.open').count(), 1);
    page.verify();
  },

  async reading() {
    const page = await open({ javaScriptEnabled: false });
    await logIn(page);
    const row = page.locator('tr', { hasText: data.route });
    assert.match(await row.textContent(), /queue/);
    await row.locator('a.open').click();
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
    const asked = await confirm(page);
    assert.match(asked, /Deliver 1 of 1 again/);
    assert.match(asked, /still fails: all 3 attempts of the last 5 minutes failed/);
    await page.waitForSelector('#message:has-text("1 of 1 will be delivered again")');
    await page.click('text=Send a test event');
    await page.waitForSelector('#message:has-text("queued, status 202: delivered: the upstream answered 200")');
    await page.click('#message a');
    await page.waitForSelector('h1 .status.success');
    await page.goto(`${base}/ui/routes/${data.route}`);
    await page.click('.actions >> text=Pause');
    assert.match(await confirm(page), /New events are still accepted and stored/);
    await page.waitForSelector('.actions >> text=Resume');
    assert.match(await page.textContent('.problems'), /paused/);
    await page.click('.actions >> text=Resume');
    await page.waitForSelector('.actions >> text=Pause');
    await page.goto(`${base}/ui/events/${data.delivery}`);
    await page.waitForSelector('h1 .status.success');
    page.verify();
  },

  // A single delivery, whose redelivery is first refused with a reason.
  async redelivering() {
    const page = await open();
    await logIn(page, `/ui/events/${data.delivery}`);
    await page.click('main button:has-text("Redeliver")');
    assert.match(await confirm(page), /still fails/);
    await page.waitForSelector('#message:has-text("delivered: the upstream answered 200")');
    await page.waitForSelector('h1 .status.success');
    const headings = await page.locator('.columns h2').allTextContents();
    assert.deepEqual(headings, ['What happened', 'Body', 'Headers']);
    await page.click('text=Copy ID');
    await page.waitForSelector('text=Copied');
    await page.click('summary:has-text("curl")');
    const command = await page.textContent('#curl');
    assert.ok(command.startsWith('curl ') && command.includes('--data-raw') && !command.includes('sha256='), command);
    page.verify();
  },

  // A proxy route: its pause says first what senders get.
  async pausing() {
    const page = await open();
    await logIn(page, `/ui/routes/${data.route}`);
    await page.click('.actions >> text=Pause');
    await page.waitForSelector('#ask[open]');
    assert.match(await page.textContent('#ask'), /senders get 503 with Retry-After/);
    await page.click('#ask >> text=Cancel');
    assert.ok(await page.isVisible('.actions >> text=Pause'), 'nothing was sent');
    await page.click('.actions >> text=Pause');
    await confirm(page);
    await page.waitForSelector('h1 .status:has-text("paused")');
    await page.click('text=Send a test event');
    await page.waitForSelector('#message:has-text("inactive, status 503")');
    page.verify();
  },

  // Chooses dead letters in the list and redelivers them, with a warning before.
  async choosing() {
    const page = await open();
    await logIn(page, '/ui/events?status=dead');
    assert.ok(await page.isDisabled('#redeliver'));
    await page.check('#choose-all');
    assert.equal(await page.textContent('#chosen'), `${data.count} events chosen`);
    await page.locator('input[name=chosen]').first().uncheck();
    await page.waitForSelector(`#chosen:has-text("${data.count - 1} event")`);
    await page.click('#redeliver');
    assert.match(await confirm(page), /The upstream of hooks still fails/);
    await page.waitForSelector(`#message:has-text("${data.count - 1} of ${data.count - 1} will be delivered again")`);
    await page.goto(`${base}/ui/events`);
    await page.waitForFunction((wanted) => document.querySelectorAll('td .status.success').length === wanted, data.count - 1);
    page.verify();
  },

  // The filters find events, and stay in the address.
  async filtering() {
    const page = await open({ javaScriptEnabled: false });
    await logIn(page, '/ui/events');
    const found = () => page.locator('a.open').allTextContents();
    await page.fill('main [name=search]', 'evt_a');
    await page.click('main .primary');
    assert.deepEqual(await found(), ['evt_a2', 'evt_a1']);
    await page.selectOption('[name=webhook_id]', data.route);
    await page.selectOption('[name=within]', '1h');
    await page.selectOption('[name=status]', 'success');
    await page.click('main .primary');
    assert.deepEqual(await found(), ['evt_a2', 'evt_a1']);
    const query = new URL(page.url()).searchParams;
    assert.deepEqual(['search', 'webhook_id', 'within', 'status'].map((name) => query.get(name)), ['evt_a', data.route, '1h', 'success']);
    assert.equal(await page.inputValue('[name=within]'), '1h');
    await page.fill('main [name=search]', 'del_3');
    await page.click('main .primary');
    assert.deepEqual(await found(), ['evt_b1']);
    await page.fill('main [name=search]', 'nothing');
    await page.click('main .primary');
    assert.match(await page.textContent('main'), /0\u00a0deliveries found/);
    // Numbers lead to what they count.
    await page.goto(base);
    await page.click('td[data-label=Rejected] a');
    assert.match(page.url(), /\/ui\/rejections\?route=hooks/);
    assert.match(await page.textContent('.groups'), /invalid_signature\/mismatch.*The signature is well formed/s);
    page.verify();
  },

  // Many rejections are a page that a phone can scroll.
  async crowded() {
    const page = await open(PHONE);
    await logIn(page, '/ui/rejections');
    assert.ok(await page.locator('table.requests tbody tr').count() >= 20);
    assert.ok(await page.locator('.groups li').count() >= 4);
    for (const path of ['/ui/rejections', '/ui/rejections?kind=invalid_signature%2Fmismatch', `/ui/rejections?route=${data.route}`]) {
      await page.goto(base + path);
      await inspect(page, path);
      await picture(page, path, 'phone');
      const height = await page.evaluate(() => document.documentElement.scrollHeight);
      assert.ok(height < 4000, `${path}: ${height} pixels high`);
    }
    page.verify();
  },

  // Long names neither widen a window of any width nor lie over their neighbours.
  async widths() {
    const page = await open();
    await logIn(page);
    const all = [...pages(), `/ui/routes/${data.long}`, '/ui/routes/closed'];
    for (const width of [360, 600, 820, 965, 1100, 1280, 1440]) {
      await page.setViewportSize({ width, height: 900 });
      for (const path of all) {
        await page.goto(base + path);
        const { scrolls, over } = await page.evaluate(() => {
          const boxes = [...document.querySelectorAll('td .name, td .clip')];
          const over = boxes.filter((box) => {
            const [inner, cell] = [box, box.closest('td')].map((each) => each.getBoundingClientRect());
            return inner.width > 0 && inner.right > cell.right + 1;
          });
          return { scrolls: document.documentElement.scrollWidth, over: over.map((box) => box.textContent) };
        });
        assert.ok(scrolls <= width, `${path}: ${scrolls} pixels wide in a window of ${width}`);
        assert.deepEqual(over, [], `${path} at ${width}`);
        await picture(page, path, `${width}`);
      }
    }
    await page.goto(`${base}/ui/routes/${data.route}`);
    assert.match(await page.textContent('h1'), /unenforced/);
    assert.match(await page.textContent('.requests'), /let pass/);
    await page.goto(`${base}/ui/rejections?kind=let_pass:invalid_signature/mismatch`);
    assert.equal(await page.locator('table.requests tbody tr').count(), 4);
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
    const search = `/ui/events?search=${encodeURIComponent('"><script>pwned=1</script>')}`;
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
    await page.waitForURL(/search=/);
    await page.keyboard.press('l');
    assert.equal(await page.textContent('#live'), 'still');
    await page.keyboard.press('?');
    assert.ok(await page.isVisible('#keys'));
    page.verify();
  },

  // On every screen nothing overflows and no word is broken, the dark scheme is dark, and the page
  // is accessible.
  async everywhere() {
    const axe = readFileSync(resolve('axe-core/axe.min.js'), 'utf8');
    for (const [colorScheme, screen] of [['light', PHONE], ['dark', PHONE], ['light', DESK], ['dark', DESK]]) {
      const page = await open({ colorScheme, ...screen, bypassCSP: true });
      const name = `${colorScheme}-${screen === PHONE ? 'phone' : 'desk'}`;
      await page.goto(base);
      await judge(page, axe, 'the login');
      await picture(page, '/ui/login', name);
      await logIn(page);
      for (const path of pages()) {
        await page.goto(base + path);
        await judge(page, axe, `${path}, ${name}`);
        await picture(page, path, name);
        await inspect(page, `${path}, ${name}`);
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

// Answers the dialog with yes. Returns its text.
async function confirm(page) {
  await page.waitForSelector('#ask[open]');
  const text = await page.textContent('#ask');
  await page.click('#ask [value=yes]');
  return text;
}

// Takes a picture of the whole page, if a folder for pictures is given.
async function picture(page, path, name) {
  const folder = process.env.HOOKSTILE_PICTURES;
  if (!folder) return;
  const file = path.replace(/^\/(ui\/)?/, '').replaceAll(/[^\w]+/g, '-') || 'overview';
  await page.screenshot({ path: `${folder}/${file}-${name}.png`, fullPage: true });
}

// Checks the rules of every page with a navigation: where one is, the one main action, the height
// of the header, and that no word is broken.
async function inspect(page, where) {
  assert.equal(await page.locator('nav [aria-current]').count(), 1, `${where}: current pages`);
  assert.equal(await page.locator('main .primary:visible').count(), 1, `${where}: primary buttons`);
  const { header, broken } = await page.evaluate(() => {
    const broken = [];
    const range = document.createRange();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
      const text = walker.currentNode;
      if (text.parentElement.closest('script, pre, [hidden], dialog:not([open]), svg, option')) continue;
      // A line may end at any other character; no line holds a longer word.
      for (const { 0: word, index } of text.data.matchAll(/[\p{L}\p{N}_]{1,36}/gu)) {
        range.setStart(text, index);
        range.setEnd(text, index + word.length);
        const lines = new Set([...range.getClientRects()].map(({ top }) => Math.round(top)));
        if (lines.size > 1) broken.push(word);
      }
    }
    return { header: document.querySelector('header').offsetHeight, broken };
  });
  assert.ok(header < 90, `${where}: the header is ${header} pixels high`);
  assert.deepEqual(broken, [], `${where}: broken words`);
}

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
