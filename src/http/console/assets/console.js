// What a page does beside being read: its live part follows the service, ages count, the theme is remembered, "/" leads to the filter.
"use strict";

const sign = document.getElementById("live-sign");
const live = document.getElementById("live");

// Ages -------------------------------------------------------------------------------------------------------------------------------
// The clocks of browser and service may differ: an age counts from what the service wrote.
function span(ms) {
  const s = Math.floor(ms / 1000), m = Math.floor(s / 60), h = Math.floor(m / 60);
  if (h >= 48) return `${Math.floor(h / 24)} d ${h % 24} h`;
  if (h) return `${h} h ${m % 60} min`;
  return m ? `${m} min ${s % 60} s` : `${s} s`;
}

const now = document.body.dataset.now;
const skew = now ? Date.now() - Date.parse(now) : 0;

function count() {
  const served = Date.now() - skew;
  for (const time of document.querySelectorAll("time[data-age]")) {
    const ms = served - Date.parse(time.dateTime);
    const text = ms < 0 ? `in ${span(-ms)}` : span(ms);
    if (time.textContent !== text) time.textContent = text;
  }
}

// Live -------------------------------------------------------------------------------------------------------------------------------
// Makes `from` look like `to` and keeps what is the same: focus, selection and scrolling stay where they are.
function morph(from, to) {
  if (from.nodeType !== Node.ELEMENT_NODE) {
    if (from.nodeValue !== to.nodeValue) from.nodeValue = to.nodeValue;
    return;
  }
  for (const { name } of [...from.attributes]) {
    if (!to.hasAttribute(name) && !(name === "open" && from.localName === "details")) from.removeAttribute(name);
  }
  for (const { name, value } of to.attributes) if (from.getAttribute(name) !== value) from.setAttribute(name, value);
  const known = new Map([...from.children].filter((child) => child.id).map((child) => [child.id, child]));
  let at = from.firstChild;
  for (const next of [...to.childNodes]) {
    let same = next.id ? known.get(next.id) : null;
    if (!same && at && !at.id && !next.id && at.nodeType === next.nodeType && at.nodeName === next.nodeName) same = at;
    if (!same) {
      from.insertBefore(next, at);
      continue;
    }
    if (same === at) at = at.nextSibling;
    else from.insertBefore(same, at);
    morph(same, next);
  }
  while (at) {
    const gone = at;
    at = at.nextSibling;
    gone.remove();
  }
}

// Milliseconds until a stream that was refused is asked for again: each time twice as long.
const AGAIN_FIRST = 5000, AGAIN_MOST = 120000;
// Says what the page shows by its mark, `seen`: only something else is sent.
const source = live && new URL(live.dataset.live, location.href);
let stream = null;
let again = 0;
let wait = AGAIN_FIRST;

function say(text) {
  if (!sign) return;
  sign.hidden = false;
  sign.textContent = text;
  sign.dataset.sign = text;
}

function follow() {
  if (!live || stream || document.hidden) return;
  clearTimeout(again);
  stream = new EventSource(source);
  stream.addEventListener("open", () => {
    wait = AGAIN_FIRST;
    say("live");
  });
  stream.addEventListener("part", (event) => {
    const part = document.createElement("div");
    part.innerHTML = event.data;
    for (const { name, value } of live.attributes) part.setAttribute(name, value);
    morph(live, part);
    source.searchParams.set("seen", event.lastEventId);
    count();
  });
  // The page itself says why: nobody is signed in, or there is no such thing any more.
  stream.addEventListener("gone", () => {
    leave();
    location.replace(source.searchParams.get("of"));
  });
  stream.addEventListener("error", () => {
    if (stream?.readyState === EventSource.CLOSED) {
      leave();
      again = setTimeout(follow, wait);
      wait = Math.min(2 * wait, AGAIN_MOST);
    }
    say("not live");
  });
}

// Without a stream nothing is said to be live.
function leave() {
  if (stream) stream.close();
  stream = null;
  if (sign) sign.hidden = true;
}

// A page that nobody sees costs nothing.
document.addEventListener("visibilitychange", () => (document.hidden ? leave() : follow()));
addEventListener("pagehide", leave);
addEventListener("pageshow", follow);

// Theme ------------------------------------------------------------------------------------------------------------------------------
const theme = document.getElementById("theme");
function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}
function name() {
  theme.textContent = isDark() ? "Light" : "Dark";
  theme.setAttribute("aria-label", isDark() ? "Light theme" : "Dark theme");
}
if (theme) {
  theme.hidden = false;
  name();
  theme.addEventListener("click", () => {
    const chosen = isDark() ? "light" : "dark";
    document.documentElement.dataset.theme = chosen;
    document.cookie = `theme=${chosen}; path=/console; max-age=31536000; samesite=lax`;
    name();
  });
}

// Keys and questions -----------------------------------------------------------------------------------------------------------------
document.addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, select, textarea, [contenteditable]");
  const filter = document.querySelector("[data-filter]");
  if (event.key === "/" && !typing && filter && !event.ctrlKey && !event.metaKey && !event.altKey) {
    event.preventDefault();
    filter.focus();
    filter.select?.();
  }
});
document.addEventListener("submit", (event) => {
  const question = event.submitter?.dataset.ask;
  if (question && !confirm(question)) event.preventDefault();
});

count();
setInterval(count, 1000);
follow();
