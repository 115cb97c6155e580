"use strict";
// Brings the page up to date: at once when the pod says that it has news (server-sent events, on
// the health port), and whenever nothing has come for a while. The server renders; this only
// exchanges what has changed, so that focus, selection and what is unfolded stay.
(() => {
  const SILENCE = 2000, PATIENCE = 5000, OLD = 6000;
  const live = document.getElementById("live");
  let newest = Date.now(), asked = newest, asking = false, stale = false, events = null;

  function same(mine, theirs) {
    return mine.nodeName === theirs.nodeName && mine.id === theirs.id;
  }

  function exchange(mine, theirs) {
    if (mine.nodeType === Node.TEXT_NODE) {
      if (mine.data !== theirs.data) mine.data = theirs.data;
      return;
    }
    for (const { name } of [...mine.attributes]) {
      if (!theirs.hasAttribute(name) && name !== "open") mine.removeAttribute(name);
    }
    for (const { name, value } of theirs.attributes) {
      if (mine.getAttribute(name) !== value) mine.setAttribute(name, value);
    }
    const coming = [...theirs.childNodes];
    [...mine.childNodes].slice(coming.length).forEach((node) => node.remove());
    coming.forEach((node, at) => {
      const old = mine.childNodes[at];
      if (!old) mine.append(node);
      else if (same(old, node)) exchange(old, node);
      else old.replaceWith(node);
    });
  }

  function tell(text, isOld) {
    live.textContent = text;
    live.className = isOld ? "old" : "";
  }

  async function refresh() {
    if (asking) {
      stale = true;
      return;
    }
    asking = true;
    do {
      stale = false;
      asked = Date.now();
      try {
        const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
        const next = new DOMParser().parseFromString(await answer.text(), "text/html");
        const main = next.querySelector("main");
        if (!answer.ok || !main) throw new Error(answer.status);
        document.title = next.title;
        exchange(document.querySelector("main"), main);
        for (const part of ["time", "link[rel=icon]"]) {
          exchange(document.querySelector(part), next.querySelector(part));
        }
        newest = Date.now();
        tell(events ? "· live" : "· every 2 s", false);
      } catch {
        // Told below, once it is too old.
      }
    } while (stale);
    asking = false;
  }

  function listen() {
    if (!("events" in document.documentElement.dataset)) return null;
    const here = location.pathname.replace(/\/$/, "");
    const source = new EventSource(`${here}/events`);
    source.onopen = () => { events = source; };
    source.onmessage = refresh;
    source.onerror = () => { events = null; };
    return source;
  }

  let source = listen();
  document.addEventListener("visibilitychange", () => {
    source?.close();
    events = null;
    if (!document.hidden) {
      source = listen();
      refresh();
    }
  });
  setInterval(() => {
    if (document.hidden) return;
    if (Date.now() - asked >= SILENCE) refresh();
    if (Date.now() - newest >= OLD) tell("· no answer since then: this is old", true);
  }, 500);
})();
