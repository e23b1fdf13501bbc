// What pages do by themselves: stay current, show local times, send what buttons say, and listen to
// keys. Everything can be read without it.
"use strict";

const REFRESH_MS = 3000;
const ANSWER_MS = 10000;
// How long a test event or a redelivery is followed, and how often.
const FOLLOW_MS = 20000;
const FOLLOW_EVERY_MS = 400;
const main = document.getElementById("main");
const message = document.getElementById("message");
const ask = document.getElementById("ask");
const live = document.getElementById("live");

// -- Messages. One about something that goes on stays until it is closed.

function say(text, link, stays) {
  const region = message.querySelector("span");
  region.textContent = text;
  if (link) {
    const to = document.createElement("a");
    to.href = link.path;
    to.textContent = link.text;
    region.append(" ", to);
  }
  message.hidden = false;
  clearTimeout(say.timer);
  if (!stays) say.timer = setTimeout(() => { message.hidden = true; }, 8000);
}

// -- Times: the server writes UTC, the browser knows where it is.

const two = (number) => String(number).padStart(2, "0");
const clock = (at) => `${two(at.getHours())}:${two(at.getMinutes())}`;

function localTime(at) {
  const day = `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
  return `${day} ${clock(at)}:${two(at.getSeconds())}`;
}

function utcTime(at) { return `${at.toISOString().slice(0, 23).replace("T", " ")} UTC`; }

const LOCAL = {
  text(time, at) { time.textContent = `${localTime(at)}.${String(at.getMilliseconds()).padStart(3, "0")}`; time.title = utcTime(at); },
  title(time, at) { time.title = `${localTime(at)} (${utcTime(at)})`; },
  minute(time, at) { time.textContent = clock(at); time.title = utcTime(at); },
  clock(time, at) { time.textContent = `${clock(at)}:${two(at.getSeconds())}`; time.title = utcTime(at); },
};

function showLocalTimes(root) {
  for (const time of root.querySelectorAll("time[data-local]")) {
    LOCAL[time.dataset.local](time, new Date(time.dateTime));
  }
  for (const title of root.querySelectorAll("title[data-at]")) {
    title.textContent = `${clock(new Date(title.dataset.at))}: ${title.dataset.counts}`;
  }
  for (const field of root.querySelectorAll("input[data-utc]")) {
    if (field.value && !field.dataset.isLocal) field.value = localTime(new Date(`${field.value}Z`)).replace(" ", "T");
    field.dataset.isLocal = "yes";
  }
  for (const zone of root.querySelectorAll(".zone")) zone.hidden = true;
  for (const text of root.querySelectorAll(".problems strong")) showLocalTimesIn(text);
}

// A sentence has times to the minute, with the day if it is another one.
function showLocalTimesIn(sentence) {
  const walker = document.createTreeWalker(sentence, NodeFilter.SHOW_TEXT);
  const before = sentence.textContent;
  const today = new Date().toISOString().slice(0, 10);
  while (walker.nextNode()) {
    walker.currentNode.data = walker.currentNode.data.replace(/(?:(\d{4}-\d\d-\d\d) )?(\d\d:\d\d) UTC/g, (_, day, minute) => {
      const at = new Date(`${day ?? today}T${minute}Z`);
      return day ? localTime(at).slice(0, 16) : clock(at);
    });
  }
  if (sentence.textContent !== before) sentence.title = before;
}

// The server takes the times of a form as UTC. An empty field is not sent.
function sendUtc(event) {
  if (event.target.method !== "get") return;
  for (const field of event.target.querySelectorAll("input[data-utc]")) {
    if (field.value) event.formData.set(field.name, new Date(field.value).toISOString());
  }
  for (const [name, value] of [...event.formData]) {
    if (value === "") event.formData.delete(name);
  }
}

function prepare(root) {
  for (const control of document.querySelectorAll(".needs-script")) control.hidden = false;
  for (const advice of document.querySelectorAll(".without-script")) advice.hidden = true;
  showLocalTimes(root);
}

// -- Live: the page is fetched again, and what is in `main` takes the place of what was there.

function isLive() { return live && live.getAttribute("aria-pressed") === "true"; }

function isInUse() {
  const focus = document.activeElement;
  const types = focus && main.contains(focus) && focus.matches("input, select");
  const isChoosing = main.querySelector("input[name=chosen]:checked");
  return types || isChoosing || document.querySelector("main details[open]:not(.shown), dialog[open]") || !getSelection().isCollapsed;
}

async function refresh() {
  const response = await fetch(location.href, { headers: { Accept: "text/html" }, signal: AbortSignal.timeout(ANSWER_MS) });
  if (response.status === 401) { location.reload(); return; }
  if (!response.ok) throw new Error(`the gateway answered ${response.status}`);
  const fresh = new DOMParser().parseFromString(await response.text(), "text/html");
  const known = new Set([...main.querySelectorAll("tr[data-id]")].map((row) => row.dataset.id));
  const selected = main.querySelector("tr.selected")?.dataset.id;
  const content = fresh.getElementById("main");
  for (const row of content.querySelectorAll("tr[data-id]")) {
    if (known.size > 0 && !known.has(row.dataset.id)) row.classList.add("new");
    if (row.dataset.id === selected) row.classList.add("selected");
  }
  main.replaceChildren(...content.childNodes);
  document.querySelector("footer time").replaceWith(fresh.querySelector("footer time"));
  document.title = fresh.title;
  prepare(document);
}

async function keepCurrent() {
  if (isLive() && !document.hidden && !isInUse()) {
    try {
      await refresh();
      live.textContent = "live";
      document.body.classList.remove("stale");
    } catch (error) {
      live.textContent = "no answer";
      live.title = String(error);
      document.body.classList.add("stale");
    }
  }
  setTimeout(keepCurrent, REFRESH_MS);
}

function toggleLive() {
  live.setAttribute("aria-pressed", String(!isLive()));
  live.textContent = isLive() ? "live" : "still";
}

// -- Buttons: each says what is sent, where, and what to ask before.

async function call(method, path, body) {
  const sent = body && { headers: { "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const response = await fetch(path, { method, ...sent });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${answer.detail} (${answer.code})`);
  return answer;
}

// Asks in a dialog. Returns whether the answer is yes.
function confirmed({ title, text, warnings, yes }) {
  ask.querySelector("h2").textContent = title;
  const explanation = ask.querySelector(".text");
  explanation.replaceChildren(...(text ?? "").split("`").map((part, place) => {
    if (place % 2 === 0) return part;
    const code = document.createElement("code");
    code.textContent = part;
    return code;
  }));
  const list = ask.querySelector(".warnings");
  list.replaceChildren(...warnings.filter(Boolean).map((warning) => {
    const item = document.createElement("li");
    item.textContent = warning;
    return item;
  }));
  list.hidden = list.childElementCount === 0;
  ask.querySelector("[value=yes]").textContent = yes;
  ask.returnValue = "no";
  ask.showModal();
  return new Promise((done) => {
    ask.addEventListener("close", () => done(ask.returnValue === "yes"), { once: true });
  });
}

const events = (count) => (count === 1 ? "1 event" : `${count} events`);

function refusals(answer) {
  return (answer.refused ?? []).map(({ code, count }) => `${events(count)} cannot be delivered again: ${code}.`);
}

function inWords(answer) {
  if (answer.running) return `${answer.accepted} of ${answer.matched} so far; the others follow in the background`;
  if (answer.matched !== undefined) return `${answer.accepted} of ${answer.matched} will be delivered again`;
  if (answer.delivery) return `${answer.delivery.event_id} will be delivered again`;
  if (answer.webhook) return answer.webhook.queue.paused ? "paused" : "resumed";
  return "done";
}

function resultOf(delivery) {
  const last = delivery.attempts.at(-1);
  const response = last?.status ? `the upstream answered ${last.status}` : last?.error;
  const after = last ? ` after ${last.duration_ms} ms` : "";
  if (delivery.status === "success") return `delivered: ${response}${after}`;
  if (delivery.status === "dead") return `dead letter: ${response}`;
  if (delivery.status === "failed") return `failed: ${response}${after}`;
  if (!last) return "stored, not attempted yet";
  const next = delivery.next_attempt_in_seconds;
  return `attempt ${last.number} failed: ${response}${after}; the next one is due ${next ? `in ${next} s` : "now"}`;
}

// Follows a delivery until its next attempt has ended, and says how.
async function follow(what, id, attemptsBefore) {
  const link = { path: `/ui/events/${id}`, text: "Open it" };
  const end = Date.now() + FOLLOW_MS;
  for (;;) {
    const { delivery } = await call("GET", `/deliveries/${id}`);
    const isKnown = delivery.attempt_count > attemptsBefore || delivery.status !== "pending";
    say(`${what} ${resultOf(delivery)}.`, link, true);
    if (isKnown || Date.now() > end) return;
    await new Promise((done) => setTimeout(done, FOLLOW_EVERY_MS));
  }
}

async function sayOutcome(button, answer) {
  if (answer.test_delivery) {
    await follow(`Test event ${answer.outcome}, status ${answer.status}:`, answer.test_delivery.delivery_id, 0);
  } else if (answer.outcome) {
    say(`Test event ${answer.event_id}: ${answer.outcome}, status ${answer.status}, ${answer.duration_ms} ms.`, null, true);
  } else if (button.dataset.follow) {
    await follow("Redelivery:", button.dataset.follow, answer.delivery.attempt_count);
  } else {
    say(inWords(answer));
  }
}

async function press(button) {
  const { post: path, ask: title, text, yes = "OK", warning } = button.dataset;
  const body = JSON.parse(button.dataset.body);
  button.disabled = true;
  try {
    if (button.hasAttribute("data-try-first")) {
      const tried = await call("POST", path, { ...body, dry_run: true });
      const pace = body.per_second ? `They become due ${body.per_second} a second, the oldest first.` : "";
      const asked = { title: `Deliver ${tried.accepted} of ${tried.matched} again?`, text: pace, yes, warnings: [warning, ...refusals(tried)] };
      if (!await confirmed(asked)) return;
    } else if (title && !await confirmed({ title, text, yes, warnings: [warning] })) {
      return;
    }
    const answer = await call("POST", path, body);
    await sayOutcome(button, answer);
    await refresh();
  } catch (error) {
    say(error.message, null, true);
  } finally {
    button.disabled = false;
  }
}

async function copy(button) {
  const text = document.getElementById(button.dataset.copy).textContent;
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    // Without TLS, only this machine's own pages have the clipboard.
    const field = document.createElement("textarea");
    field.value = text;
    document.body.append(field);
    field.select();
    document.execCommand("copy");
    field.remove();
  }
  const label = button.textContent;
  button.textContent = "Copied";
  setTimeout(() => { button.textContent = label; }, 1500);
}

// -- Choosing rows, to redeliver them together.

function chosenRows() { return [...main.querySelectorAll("input[name=chosen]:checked")]; }

function showChosen() {
  const boxes = main.querySelectorAll("input[name=chosen]:not(:disabled)");
  const chosen = chosenRows();
  document.getElementById("chosen").textContent = chosen.length ? `${events(chosen.length)} chosen` : "Choose all";
  document.getElementById("redeliver").disabled = chosen.length === 0;
  const all = document.getElementById("choose-all");
  all.checked = chosen.length > 0 && chosen.length === boxes.length;
  all.indeterminate = chosen.length > 0 && !all.checked;
}

async function redeliverChosen() {
  const chosen = chosenRows();
  const routes = new Set(chosen.map((box) => box.dataset.route));
  const obstacles = [...document.querySelectorAll("#bulk li")].filter((item) => routes.has(item.dataset.route));
  const body = { ids: chosen.map((box) => box.value) };
  try {
    const tried = await call("POST", "/deliveries/redeliver", { ...body, dry_run: true });
    const warnings = [...obstacles.map((item) => item.textContent), ...refusals(tried)];
    const text = "They become due at once, the oldest first.";
    const asked = { title: `Deliver ${events(tried.accepted)} again?`, text, yes: "Redeliver", warnings };
    if (!await confirmed(asked)) return;
    say(inWords(await call("POST", "/deliveries/redeliver", body)));
    for (const box of chosen) box.checked = false;
    await refresh();
  } catch (error) {
    say(error.message, null, true);
  }
}

function onChange({ target }) {
  if (target.id === "choose-all") {
    for (const box of main.querySelectorAll("input[name=chosen]:not(:disabled)")) box.checked = target.checked;
  } else if (target.name !== "chosen") {
    return;
  }
  showChosen();
}

// -- Keys.

let after = "";

function select(step) {
  const rows = [...main.querySelectorAll("table.rows tbody tr")];
  if (rows.length === 0) return;
  const at = rows.findIndex((row) => row.classList.contains("selected"));
  const next = at < 0 ? 0 : Math.min(Math.max(at + step, 0), rows.length - 1);
  rows[at]?.classList.remove("selected");
  rows[next].classList.add("selected");
  rows[next].scrollIntoView({ block: "nearest" });
}

function onKey(event) {
  const isTyping = event.target.matches("input:not([type=checkbox]), select, textarea");
  if (event.ctrlKey || event.metaKey || event.altKey || isTyping || document.querySelector("dialog[open]")) return;
  const { key } = event;
  const page = after === "g" && document.querySelector(`nav a[data-key="${CSS.escape(key)}"]`);
  after = key;
  if (page) page.click();
  else if (key === "/") document.getElementById("search")?.focus();
  else if (key === "j") select(1);
  else if (key === "k") select(-1);
  else if (key === "x") main.querySelector("tr.selected input[name=chosen]")?.click();
  else if (key === "l" && live) toggleLive();
  else if (key === "?") document.getElementById("keys").showModal();
  else if (key === "Enter" && event.target === document.body) main.querySelector("tr.selected a.open")?.click();
  else return;
  event.preventDefault();
}

document.addEventListener("keydown", onKey);
document.addEventListener("change", onChange);
document.addEventListener("formdata", sendUtc);
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (!button) return;
  if (button === live) toggleLive();
  else if (button.dataset.post) press(button);
  else if (button.dataset.copy) copy(button);
  else if (button.id === "redeliver") redeliverChosen();
  else if (button.parentElement === message) message.hidden = true;
});
prepare(document);
if (live) setTimeout(keepCurrent, REFRESH_MS);
