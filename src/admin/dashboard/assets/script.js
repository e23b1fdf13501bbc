// What pages do by themselves: stay current, send what buttons say, and listen to keys. Everything can be read without it.
"use strict";

const REFRESH_MS = 3000;
const ANSWER_MS = 10000;
const main = document.getElementById("main");
const message = document.getElementById("message");
const live = document.getElementById("live");

function say(text) {
  message.textContent = text;
  message.hidden = false;
  clearTimeout(say.timer);
  say.timer = setTimeout(() => { message.hidden = true; }, 8000);
}

function showControls() {
  for (const control of document.querySelectorAll(".needs-script")) control.hidden = false;
  for (const advice of document.querySelectorAll(".without-script")) advice.hidden = true;
}

// -- Live: the page is fetched again, and what is in `main` takes the place of what was there.

function isLive() { return live && live.getAttribute("aria-pressed") === "true"; }

function isInUse() {
  const focus = document.activeElement;
  const types = focus && main.contains(focus) && focus.matches("input, select");
  return types || document.querySelector("main details[open], dialog[open]") || !getSelection().isCollapsed;
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
  showControls();
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

// -- Buttons: each says what is sent, and where.

async function post(path, body) {
  const response = await fetch(path, {
    method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body),
  });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${answer.detail} (${answer.code})`);
  return answer;
}

function inWords(answer) {
  if (answer.outcome) return `${answer.event_id}: ${answer.outcome}, status ${answer.status}, ${answer.duration_ms} ms`;
  if (answer.matched !== undefined) return `${answer.accepted} of ${answer.matched} will be delivered again`;
  if (answer.delivery) return `${answer.delivery.event_id} will be delivered again`;
  if (answer.webhook) return answer.webhook.queue.paused ? "paused" : "delivering";
  return "done";
}

async function press(button) {
  const { post: path, ask } = button.dataset;
  const body = JSON.parse(button.dataset.body);
  button.disabled = true;
  try {
    if (button.hasAttribute("data-try-first")) {
      const tried = await post(path, { ...body, dry_run: true });
      const pace = body.per_second ? `, ${body.per_second} a second` : "";
      if (!confirm(`Deliver ${tried.accepted} of ${tried.matched} again${pace}?`)) return;
    } else if (ask && !confirm(ask)) {
      return;
    }
    say(inWords(await post(path, body)));
    await refresh();
  } catch (error) {
    say(error.message);
  } finally {
    button.disabled = false;
  }
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
  if (event.ctrlKey || event.metaKey || event.altKey || event.target.matches("input, select, textarea")) return;
  const { key } = event;
  const page = after === "g" && document.querySelector(`nav a[data-key="${CSS.escape(key)}"]`);
  after = key;
  if (page) page.click();
  else if (key === "/") document.getElementById("search")?.focus();
  else if (key === "j") select(1);
  else if (key === "k") select(-1);
  else if (key === "l" && live) toggleLive();
  else if (key === "?") document.getElementById("keys").showModal();
  else if (key === "Enter" && event.target === document.body) main.querySelector("tr.selected a.open")?.click();
  else return;
  event.preventDefault();
}

document.addEventListener("keydown", onKey);
document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button === live) toggleLive();
  else if (button?.dataset.post) press(button);
});
showControls();
if (live) setTimeout(keepCurrent, REFRESH_MS);
