/*
 * Sends page views, and what else the page tells it, to Sluice. Attributes, calls and limits: docs/browser.md.
 *
 *   <script defer src="sluice.js" data-url="https://.../prod" data-source="shop"></script>
 *   import "./sluice.js"; sluice.init({url: "https://.../prod", source: "shop"});
 *
 * One file for both: it exports nothing and sets window.sluice. An event is in one place at a time: in `queue`, in
 * `flight` (a request without an answer yet), or in the storage of the device.
 */
(() => {
  const FLUSH_MS = 2000, FLUSH_EVENTS = 20, QUEUE_EVENTS = 1000;
  const PART_CHARS = 20000; // 60,000 bytes at most: beacons and keepalive requests share 64 KiB
  const RETRY_MS = 500, RETRY_MAX_MS = 30000; // and up to as long again
  const ANSWER_MS = 30000;
  const VIEW_MS = 200; // one view at most in this time, however often the page calls pushState
  const IDLE_MS = 30000; // nobody is engaged who has given no input for longer
  const SESSION_MS = 1800000, SAVES = 10, SAVE_CHARS = 100000, LOCK_MS = 1000;
  const IDS = "sluice", SAVED = "sluice-";
  const OPTED_OUT = "opted_out", OUT = "out"; // by the browser's signal: counted without ids; by the call: not at all
  const DOWNLOAD = /\.(pdf|zip|csv|docx?|xlsx?)$/i;

  let options, page, referrer, userId, consent, flushTimer, viewTimer, engagedMs, scrollPercent, seenAt, hasLeft;
  let queue = [], flight = [], failures = 0;
  if (globalThis.sluice?.init || !globalThis.document) return; // a second script tag, or no page

  /* The page goes on, whatever happens here. */
  const safe = (work) => (...values) => {
    try {
      return work(...values);
    } catch { /* nobody to tell */ }
  };
  /* The window sees events first, before the page can stop them, or last, after all that the page does then. */
  const listen = (types, work, isLast) =>
    types.split(" ").forEach((type) => addEventListener(type, safe(work), !isLast));

  /* randomUUID is for pages of https alone. */
  const newId = () => crypto.randomUUID?.() ?? crypto.getRandomValues(new Uint32Array(4)).join("-");

  /* A URL's origin and path: queries and fragments carry tokens and e-mail addresses. */
  const cut = (url) => (({origin, pathname}) => origin + pathname)(new URL(url, location));

  const has = (list, name) => `${list}`.split(" ").includes(name);

  // The device's storage, with consent alone

  const isLocal = () => options.storage === "local";
  const isStoring = () => isLocal() && consent === "granted";
  const read = safe((key) => localStorage[key]);
  const write = safe((key, value) => localStorage[key] = value);
  const parse = (key) => safe(JSON.parse)(read(key)) ?? [];
  const savedKeys = () => Object.keys(localStorage).filter((key) => key.startsWith(SAVED));
  const forget = safe(() => isLocal() && !savedKeys().concat(IDS).forEach((key) => delete localStorage[key]));

  /* The ids of the device and the visit; none if they cannot be kept, else each event would be another visitor's. */
  const ids = () => {
    if (!isStoring()) return;
    const {at, ...kept} = {anonymous_id: newId(), ...parse(IDS)}, now = Date.now();
    if (!(now - at < SESSION_MS)) kept.session_id = newId();
    if (write(IDS, JSON.stringify({...kept, at: now}))) return kept;
  };

  /* Keep events for a later page, under a key of their own, so that no tab overwrites another's. */
  const save = safe(() => {
    const events = front(SAVE_CHARS);
    return events[0] && isStoring() && savedKeys().length < SAVES
      && write(SAVED + newId(), JSON.stringify(events)) && take(events);
  });

  /* Move saved events to this queue. One tab does it at a time, and keeps the lock until the others see it. */
  const restore = () => {
    if (!isStoring() || !savedKeys()[0]) return flush();
    const move = safe(() => {
      savedKeys().forEach((key) => {
        queue.push(...parse(key));
        delete localStorage[key];
      });
      flush();
      return new Promise((done) => setTimeout(done, LOCK_MS));
    });
    navigator.locks ? navigator.locks.request(IDS, move).catch(() => {}) : move();
  };

  // Sending

  /* The front of the queue: so many characters, but one event at least. */
  const front = (chars) => queue.filter((event, index) => (chars -= event.length + 1) > 0 || !index);
  const take = (events) => queue.splice(0, events.length);

  const flushIn = (wait) => flushTimer ??= setTimeout(flush, wait);

  /* Send the queue, a part at a time, as text/plain: it needs no preflight. */
  const flush = async () => {
    flushTimer = clearTimeout(flushTimer);
    if (flight.length || !queue.length) return;
    flight = take(front(PART_CHARS));
    let isRefused = true;
    try {
      const body = `[${flight}]`;
      const {status} = await fetch(options.url, {
        method: "POST", body, credentials: "omit",
        keepalive: body.length < PART_CHARS + 2, signal: AbortSignal.timeout?.(ANSWER_MS),
      });
      isRefused = status === 429 || status > 499; // after any other 4xx it would be refused again
    } catch { /* no network, a policy, a blocker */ }
    failures = isRefused && failures + 1;
    if (isRefused) queue = flight.concat(queue);
    flight = [];
    if (!queue.length || (failures && document.hidden && save())) return;
    flushIn(failures && Math.min(RETRY_MS * 2 ** failures, RETRY_MAX_MS) * (1 + Math.random()));
  };

  /* What a page does while it is sure to run: it may not come back. */
  const hide = () => {
    if (viewTimer) view();
    leave();
    if (!navigator.onLine) {
      queue = flight.splice(0).concat(queue);
      return save();
    }
    if (failures && save()) return;
    while (queue.length) {
      const events = front(PART_CHARS);
      if (!navigator.sendBeacon?.(options.url, `[${events}]`)) return save();
      take(events);
    }
  };

  // Events

  const add = (name, action, properties) => {
    if (consent === OUT || queue.length >= QUEUE_EVENTS) return;
    queue.push(JSON.stringify({
      event_id: newId(), timestamp: new Date(), name, action, source: options.source, user_id: userId, consent,
      ...page, ...ids(), ...properties,
    }));
    flushIn(FLUSH_MS);
    if (queue.length >= FLUSH_EVENTS && !failures) flush();
  };

  /* Add the time since the last input. To see how far down the visitor is costs a layout, except after a scroll. */
  const engage = (isSeen) => {
    const now = performance.now();
    if (seenAt) engagedMs += Math.min(now - seenAt, IDLE_MS);
    seenAt = !document.hidden && now;
    const seen = isSeen && 100 * (scrollY + innerHeight) / document.documentElement.scrollHeight;
    if (seen > scrollPercent) scrollPercent = Math.min(100, Math.round(seen));
  };

  /* Tell how long the view was looked at. A tab that is shown and left again adds the time since. */
  const leave = () => {
    if (!page) return;
    engage(true);
    const value = Math.round(engagedMs / 100) / 10;
    if (value || !hasLeft) add("page", "leave", {value, scroll_percent: scrollPercent});
    seenAt = engagedMs = 0;
    hasLeft = true;
  };

  /* The named parameters of the URL's query. */
  const query = (keeps) => new URLSearchParams([...new URLSearchParams(location.search)].filter(([name]) => keeps(name)));
  const pathOf = () => `${location.pathname}?${query((name) => has(options.query, name))}`.replace(/\?$/, "");

  const view = safe(() => {
    viewTimer = clearTimeout(viewTimer);
    const path = pathOf();
    if (page?.path === path) return;
    page = {
      path, referrer, host: location.host, screen: `${screen.width}x${screen.height}`, language: navigator.language,
      time_zone: new Date().getTimezoneOffset() / -60, // its name tells more of a person, and costs Intl's first use
      ...Object.fromEntries(query((name) => /^(utm_\w+|ref)$/.test(name))),
    };
    if ("title" in options) page.title = document.title;
    referrer = cut(location);
    hasLeft = scrollPercent = engagedMs = 0;
    seenAt = performance.now();
    add("page", "view");
  });

  /* The URL may have changed. Another path is another page, a state or a fragment is not. */
  const viewSoon = safe(() => {
    if (page?.path !== pathOf()) leave();
    if (!document.prerendering) viewTimer ??= setTimeout(view, VIEW_MS);
  });

  // What the page calls
  const api = {
    init(given) {
      if (options || !given.url) return;
      options = {...given, url: given.url.replace(/(\/track)?\/?$/, "/batch")};
      if (document.referrer) referrer = cut(document.referrer);
      const stored = isLocal() && read(IDS);
      if (stored) consent = stored === OUT ? OUT : "granted";
      if (consent !== OUT && (navigator.globalPrivacyControl || navigator.doNotTrack === "1")) consent = OPTED_OUT;
      if (consent === OPTED_OUT) forget();
      ["pushState", "replaceState"].forEach((name) => {
        const original = history[name].bind(history);
        history[name] = (...values) => {
          original(...values);
          viewSoon();
        };
      });
      listen("popstate", viewSoon);
      listen("pagehide", () => {
        hide();
        flight = []; // it goes on without the page, although the page sees it fail
      }, true);
      listen("visibilitychange pageshow online", ({persisted}) => {
        if (document.hidden) return hide();
        if (persisted) page = null; // out of the back/forward cache: one more view
        viewSoon();
        engage();
        restore();
      }, true);
      listen("scroll pointerdown keydown", ({type}) => engage(type === "scroll"));
      listen("click", ({target}) => {
        const link = target.closest("a[href]");
        const isDownload = link.hasAttribute("download") || DOWNLOAD.test(link.pathname);
        const action = isDownload ? "download" : link.host && link.host !== location.host && "outbound";
        if (has(options.track, action)) add("link", action, {url: cut(link)});
      });
      listen("submit", ({target}) => has(options.track, "form") && add("form", "submit", {form: target.id}));
      viewSoon();
      restore();
    },
    track(action, properties) {
      if (viewTimer) view(); // the view of this page comes first
      add("page", action, properties);
    },
    identify(id) {
      if (consent && consent !== "granted") return;
      userId = id ?? undefined;
      if (id) add("user", "identify");
    },
    consent(isGiven) {
      if (consent === OPTED_OUT) return;
      consent = isGiven ? "granted" : "denied";
      if (isGiven) return restore();
      userId = undefined;
      forget();
    },
    optOut() {
      consent = OUT;
      queue = [];
      forget() && write(IDS, OUT);
    },
  };
  for (const name in api) api[name] = safe(api[name]);
  globalThis.sluice = api;
  api.init((document.currentScript ?? document.querySelector("script[data-url]"))?.dataset);
})();
