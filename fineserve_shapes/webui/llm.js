"use strict";
/* The LLM tab. Locust shows an empty panel for it; this fills a box of its own at the end of the panel's container and
   keeps it up to date. Whatever comes from the server goes into the page as text, never as markup. */
(() => {
  const BASE = document.currentScript.src.replace(/llm\.js.*$/, "");
  const POLL_MS = 2000, AGAIN_MS = 5000;
  const METRICS = [["ttft", "TTFT"], ["ttft_from_due", "TTFT from due"], ["tpot", "TPOT"], ["itl", "ITL"],
    ["e2e_latency", "E2E"], ["lag", "Lag"]];
  const COLUMNS = [["count", "Count"], ["mean_ms", "Mean"], ["p50_ms", "p50"], ["p90_ms", "p90"], ["p95_ms", "p95"],
    ["p99_ms", "p99"], ["p99.9_ms", "p99.9"], ["max_ms", "Max"]];
  const BOUNDED = ["p90_ms", "p99_ms", "p99.9_ms"];
  const STATES = { none: "no run yet", starting: "getting ready", running: "running", stopping: "ending", over: "over" };

  let known = forget();  // what the server has told of the run that is shown
  let window_s = 0, timer = null, asks = 0, zoom_s = null, drawn = "", unit_s = 1, draws = 0;

  function forget() {
    return { run: "", version: 0, axis: { start_s: [], width_s: [] }, columns: null, servers: [], told: null };
  }

  // elements

  function make(tag, attributes, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
    element.append(...children);  // strings become text
    return element;
  }

  const chosen = (label, options, change) => {
    const select = make("select", { "aria-label": label });
    for (const [value, text] of options) select.append(make("option", { value }, text));
    select.addEventListener("change", () => change(select.value));
    return select;
  };
  const parts = {
    title: make("h2", {}, "LLM"), about: make("p"), notice: make("p", { class: "notice", role: "status" }),
    tiles: make("dl", { class: "tiles", "aria-label": "Figures of the moment" }),
    reasons: make("p", { class: "notice" }), curve: make("div", { class: "charts" }), charts: make("div", { class: "charts" }),
    table: make("div", { class: "scroll", role: "region", "aria-label": "Latencies", tabindex: "0" }),
    workers: make("div", { class: "scroll", role: "region", "aria-label": "Processes", tabindex: "0" }),
    errors: make("div", { class: "scroll", role: "region", "aria-label": "Errors", tabindex: "0" }),
    window: chosen("Time shown in the charts",
      [["0", "Whole run"], ["60", "Last minute"], ["300", "Last 5 minutes"], ["1800", "Last 30 minutes"]], (value) => {
        window_s = Number(value);
        zoom_s = null;
        drawCharts();
      }),
  };

  // numbers

  const digits = (value, most) => new Intl.NumberFormat("en", { maximumSignificantDigits: most }).format(value);
  const number = (value) => (value === null || value === undefined ? "–"
    : Math.abs(value) >= 1000 ? Math.round(value).toLocaleString("en") : digits(value, 4));
  const whole = (value) => (value === null || value === undefined ? "–" : value.toLocaleString("en"));
  const percent = (share) => `${digits(100 * share, 3)} %`;
  const clock = (seconds) => {
    const all = Math.floor(seconds), pad = (value) => String(value).padStart(2, "0");
    return all < 3600 ? `${Math.floor(all / 60)}:${pad(all % 60)}`
      : `${Math.floor(all / 3600)}:${pad(Math.floor(all / 60) % 60)}:${pad(all % 60)}`;
  };

  const streams = FineserveStreams({ make, number, whole, percent }, (turnedOn) => {
    if (turnedOn) {  // its columns are not there yet
      known.version = 0;
      poll();
    } else drawCharts();
  });
  const box = make("section", { id: "fineserve", role: "tabpanel", "aria-label": "LLM", hidden: "" },
    make("div", { class: "head" }, make("div", {}, parts.title, parts.about),
      make("div", { class: "tools" }, parts.window)),
    parts.notice, parts.tiles, parts.reasons, parts.curve, streams.element, parts.charts, parts.table, parts.workers, parts.errors);

  // asking

  const shown = () => !box.hidden && !document.hidden;

  async function poll() {
    clearTimeout(timer);
    timer = null;
    if (!shown()) return;
    let wait = POLL_MS;
    const mine = ++asks, wanted = streams.shown().map(({ name }) => name);
    try {
      const asked = new URLSearchParams({ run: known.run, version: known.version });
      for (const name of wanted) asked.append("stream", name);
      for (const { at_s } of known.servers) asked.append("server_s", at_s.length ? at_s[at_s.length - 1] : -1e9);
      const answer = await fetch(`${BASE}llm.json?${asked}`);
      if (answer.redirected || answer.status === 401) throw new Error("you are no longer signed in: reload the page");
      if (!answer.ok) throw new Error(`Locust answered with HTTP ${answer.status}`);
      const told = await answer.json();
      if (mine !== asks) return;  // something else has been asked for meanwhile
      take(told);
      parts.notice.textContent = "";
      if (streams.shown().some(({ name }) => !wanted.includes(name))) {  // there are streams that were not asked for
        known.version = 0;
        wait = 0;
      }
    } catch (error) {
      parts.notice.textContent = `No news: ${error.message}`;
      wait = AGAIN_MS;
    }
    if (timer === null) timer = setTimeout(poll, wait);
  }

  function take(told) {
    if (told.run === null) {
      parts.notice.textContent = "There has been no run yet.";
      return;
    }
    if (told.run !== known.run) {
      known = { ...forget(), run: told.run };
      zoom_s = null;
    }
    const first = known.version === 0;
    known.told = told;
    if (told.series) addSeries(told.series, first);
    addServers(told.servers, first);
    known.version = told.version;
    showHead();
    showTiles();
    streams.show(told.rows);
    showTable();
    showWorkers();
    showErrors();
    drawCharts();
  }

  /* Slots from the first that changed take the place of those that were there. */
  function addSeries(series, first) {
    const start = series.start_s.length ? series.start_s[0] : Infinity;
    const keep = first || !known.columns ? 0 : known.axis.start_s.filter((begin) => begin < start).length;
    const join = (before, after) => (Array.isArray(after) ? [...(before || []).slice(0, keep), ...after]
      : Object.fromEntries(Object.entries(after).map(([name, column]) => [name, join((before || {})[name], column)])));
    known.axis = { start_s: join(known.axis.start_s, series.start_s), width_s: join(known.axis.width_s, series.width_s) };
    known.columns = join(known.columns, { total: series.total, streams: series.streams });
  }

  function addServers(servers, first) {
    if (first || known.servers.length !== servers.length) known.servers = servers.map(({ series }) => series);
    else servers.forEach(({ series }, i) => {
      for (const name of Object.keys(series)) known.servers[i][name].push(...series[name]);
    });
  }

  // showing

  function showHead() {
    const { about, state, elapsed_s, run, ledger, servers } = known.told;
    parts.title.textContent = `Run ${run}: ${STATES[state] || state}, ${clock(elapsed_s)}`;
    const words = [`${about.mode} against ${about.simulator ? "the simulator at " : ""}${about.host}`];
    if (about.model) words.push(`model ${about.model}`);
    words.push(`${whole(ledger.done)} of ${whole(about.requests ?? ledger.planned)} requests done, ${whole(ledger.failed)} failed`);
    for (const outcome of ["cancelled", "unsent", "unknown"]) if (ledger[outcome]) words.push(`${whole(ledger[outcome])} ${outcome}`);
    for (const { url, status } of servers) {
      if (status !== "ok") words.push(`no metrics of ${servers.length > 1 ? url : "the server"}: ${status}`);
    }
    if (about.capacity) words.push(`step ${about.capacity.steps.length + (about.done ? 0 : 1)} at scale ${number(about.scale)}`);
    if (about.error) words.push(about.error);
    parts.about.textContent = words.join(" · ");
  }

  function showTiles() {
    const { now, fidelity, table, state } = known.told, ttft = table.total.ttft;
    const mean = (over_s, ago_s) => `mean of ${whole(Math.round(over_s))} s${ago_s >= 1 ? `, ${number(Math.round(ago_s))} s ago` : ""}`;
    const limits = Object.entries(now.slo || {}).map(([name, limit]) => `${name.replace("_ms", "")} ${number(limit)} ms`);
    const lag = fidelity.lag_p99_ms === null ? "nothing was sent yet"
      : `lag p99 ${number(fidelity.lag_p99_ms)} ms, limit ${number(fidelity.limits.max_lag_ms)} ms`;
    const tiles = [
      ["In flight", whole(now.in_flight), state === "over" ? "the run is over" : "requests"],
      ["Output tokens/s", number(now.output_tokens_per_s), mean(now.output_over_s, now.output_ago_s)],
      ["Input tokens/s", number(now.input_tokens_per_s), mean(now.rate_over_s, now.rate_ago_s)],
      ["TTFT p50", ttft.p50_ms === null ? "–" : `${number(ttft.p50_ms)} ms`, ttft.p99_ms === null ? "" : `p99 ${number(ttft.p99_ms)} ms`],
      !now.judged ? ["Goodput", "–", "no SLO was set (--slo)"]
        : ["Goodput", now.good_share === null ? "–" : percent(now.good_share),
          `${number(now.good_rps)}/s met ${now.slo === null ? "the SLO of their stream" : limits.join(", ")}`],
      ["Load as asked", FineserveStreams.VERDICTS[fidelity.verdict] || "–", lag,
        { valid: "good", invalid: "bad" }[fidelity.verdict]],
    ];
    const reasons = fidelity.reasons.slice(0, 4).join("; "), others = fidelity.reasons.length - 4;
    parts.reasons.textContent = reasons && `Not as asked: ${reasons}${others > 0 ? `; and ${others} more reasons` : ""}.`;
    parts.tiles.replaceChildren(...tiles.map(([name, value, more, kind]) => make("div", { class: `tile ${kind || ""}` },
      make("dt", {}, name), make("dd", { class: "value" }, value), make("dd", { class: "more" }, more))));
  }

  function showTable() {
    const { table, bounds } = known.told, streams = Object.entries(table.streams);
    const groups = [["total", "All", table.total, bounds && bounds.total],
      ...(streams.length > 1 ? streams.map(([name, entry]) => [name, name, entry, bounds && bounds.streams[name]]) : [])];
    const bounded = (column) => bounds && BOUNDED.includes(column);  // once the run is over
    const head = make("tr", {}, make("th", { scope: "col", class: "left" }, "Metric"), make("th", { scope: "col", class: "left" }, "Stream"),
      ...COLUMNS.flatMap(([column, title]) => [make("th", { scope: "col" }, title),
        ...(bounded(column) ? [make("th", { scope: "col", title: `${title} is at most that, with 99 % confidence` }, "at most")] : [])]));
    const body = make("tbody");
    for (const [key, name, entry, most] of groups) {
      METRICS.forEach(([metric, title], place) => body.append(make("tr",
        { class: place || key === "total" ? "" : "first", "data-stream": key, "data-metric": metric },
        make("th", { scope: "row" }, title), make("td", { class: "left" }, name),
        ...COLUMNS.flatMap(([column]) => [make("td", { "data-column": column },
          column === "count" ? whole(entry[metric][column]) : number(entry[metric][column])),
        ...(bounded(column) ? [make("td", { "data-bound": column }, number(most && most[metric] && most[metric][column]))] : [])]))));
    }
    replaceTable(parts.table, make("table", { class: "latencies" }, make("caption", {}, "Latencies in milliseconds, exact to 0.5 %"),
      make("thead", {}, head), body));
  }

  /* What could spoil the figures, process by process. */
  function showWorkers() {
    const { workers, master } = known.told.fidelity, rows = Object.entries(workers);
    parts.workers.hidden = !rows.length;
    const columns = [["Sent", (p) => whole(p.sent)], ["In flight", (p) => whole(p.in_flight)],
      ["Loop delay p99", (p) => number(p.loop_delay_p99_ms)], ["Read delay p50", (p) => number(p.reads.delay_p50_ms)],
      ["Read delay p99", (p) => number(p.reads.delay_p99_ms)],
      ["Shared reads", (p) => (p.reads.shared_share === null ? "–" : percent(p.reads.shared_share))],
      ["TTFT sure within p99", (p) => number(p.reads.first_unsure_p99_ms)],
      ["Clock within", (p) => (p.uncertainty_s === null ? "–" : number(1000 * p.uncertainty_s))]];
    if (rows.length > 1 && master) rows.push(["master", master]);
    replaceTable(parts.workers, make("table", { class: "workers" }, make("caption", {}, "Processes, delays in milliseconds"),
      make("thead", {}, make("tr", {}, make("th", { scope: "col", class: "left" }, "Process"),
        ...columns.map(([title]) => make("th", { scope: "col" }, title)))),
      make("tbody", {}, ...rows.map(([name, facts]) => make("tr", {}, make("th", { scope: "row" }, name),
        ...columns.map(([, cell]) => make("td", {}, cell(facts))))))));
  }

  function showErrors() {
    const { errors } = known.told;
    parts.errors.hidden = !errors.length;
    replaceTable(parts.errors, make("table", { class: "errors" }, make("caption", {}, "Errors"),
      make("thead", {}, make("tr", {}, ...[["Requests", ""], ["Outcome", "left"], ["Error", "left"]]
        .map(([title, kind]) => make("th", { scope: "col", class: kind }, title)))),
      make("tbody", {}, ...errors.map((error) => make("tr", {}, make("td", {}, whole(error.requests)),
        make("td", { class: "left" }, error.outcome), make("td", { class: "left" }, error.error))))));
  }

  /* A new table where something changed: what is selected or read out in the old one stays otherwise. */
  function replaceTable(holder, table) {
    if (!holder.firstChild || !holder.firstChild.isEqualNode(table)) holder.replaceChildren(table);
  }

  // charts

  /* The newest seconds are not whole yet while the run goes on. */
  function settled() {
    const { told, axis, columns } = known;
    const until_s = told.state === "over" ? Infinity : told.elapsed_s - 1;
    let count = axis.start_s.length;
    while (count && axis.start_s[count - 1] + axis.width_s[count - 1] > until_s) count -= 1;
    const cut = (column) => (Array.isArray(column) ? column.slice(0, count)
      : Object.fromEntries(Object.entries(column).map(([name, part]) => [name, cut(part)])));
    return { axis: cut(axis), columns: columns && cut(columns) };
  }

  /* While answers go on, their tokens are those that have come; what only their end tells is left out. */
  function live(axis, columns, entry) {
    const { state, elapsed_s } = known.told;
    if (state === "over") return columns;
    const e2e_ms = entry.e2e_latency.p99_ms, known_s = e2e_ms === null ? 0 : elapsed_s - e2e_ms / 1000;
    const told = (column) => column.map((count, i) => (axis.start_s[i] + axis.width_s[i] <= known_s ? count : null));
    return {
      ...columns,
      input_tokens: told(columns.input_tokens),
      output_tokens: columns.tokens_come.some((count) => count) ? columns.tokens_come : told(columns.output_tokens),
    };
  }

  async function drawCharts() {
    if (!shown() || !known.told) return;
    await loadPlotly();
    if (!shown()) return;
    await drawCurve();
    const { axis, columns } = settled();
    if (!columns) {
      parts.charts.replaceChildren();
      return;
    }
    const end_s = axis.start_s.length ? axis.start_s[axis.start_s.length - 1] + axis.width_s[axis.width_s.length - 1] : 1;
    const unit = FineserveCharts.timeUnit(window_s || end_s);
    const look = { ...lookNow(), x: `time since the start (${unit.name})`, revision: `${known.run} ${unit.name} ${window_s}` };
    unit_s = unit.seconds;
    look.range = (zoom_s || [window_s ? Math.max(end_s - window_s, 0) : 0, end_s]).map((at_s) => at_s / unit_s);
    look.ranged = draws += 1;  // the range is ours to set, each time; what else a reader has changed stays
    const charts = chartsOf(axis, columns, unit, look);
    const wanted = new Set(charts.map((chart) => chart.id));
    for (const figure of [...parts.charts.children]) if (!wanted.has(figure.dataset.chart)) figure.remove();
    const plots = charts.map((chart) => figureOf(chart, parts.charts));  // all of them first: the page's columns must stand before anything is measured
    for (const [place, chart] of charts.entries()) {
      const plot = plots[place];
      if (!shown() || !plot.isConnected) return;  // Plotly cannot measure what is not there
      await FineserveCharts.draw(plot, chart, look);
      if (!plot.dataset.zooms) {
        plot.dataset.zooms = "yes";
        plot.on("plotly_relayout", (change) => onZoom(change));
      }
    }
    drawn = look.dark ? "dark" : "light";
  }

  function chartsOf(axis, columns, unit, look) {
    const { table, fidelity, rows, servers } = known.told;
    const total = live(axis, columns.total, table.total);
    const told = servers.map(({ url }, i) => ({ url, series: known.servers[i] }));
    if (!rows) return FineserveCharts.overTime(axis, total, told, fidelity.limits, unit, look.dark);
    const lines = streams.shown().filter(({ name }) => columns.streams[name])
      .map((one) => ({ ...one, columns: live(axis, columns.streams[one.name], table.streams[one.name]) }));
    return FineserveCharts.ofStreams(axis, total, lines, told, fidelity.limits, unit, look);
  }

  /* Of a search or a sweep, as far as it has come: its axis is the rate, so no zoom is shared with it. */
  async function drawCurve() {
    const look = lookNow(), charts = FineserveCharts.curve(known.told.about.capacity, look.dark);
    if (!charts.length) parts.curve.replaceChildren();
    const plots = charts.map((chart) => figureOf(chart, parts.curve));
    for (const [place, chart] of charts.entries()) if (plots[place].isConnected) await FineserveCharts.draw(plots[place], chart, look);
  }

  function figureOf(chart, holder) {
    const there = holder.querySelector(`[data-chart="${chart.id}"] .plot`);
    if (there) return there;
    const plot = make("div", { class: "plot" });
    holder.append(make("figure", { "data-chart": chart.id, role: "group", "aria-label": `${chart.title}, ${chart.unit}` },
      make("h3", {}, chart.title), plot));
    return plot;
  }

  /* One chart was zoomed or set back: all follow. */
  function onZoom(change) {
    if ("xaxis.range[0]" in change) zoom_s = [change["xaxis.range[0]"] * unit_s, change["xaxis.range[1]"] * unit_s];
    else if (Array.isArray(change["xaxis.range"])) zoom_s = change["xaxis.range"].map((at) => at * unit_s);
    else if (change["xaxis.autorange"]) zoom_s = null;
    else return;
    drawCharts();
  }

  let loading = null;
  function loadPlotly() {
    loading = loading || new Promise((resolve, reject) => {
      const script = make("script", { src: `${BASE}plotly.min.js` });
      script.onload = resolve;
      script.onerror = () => { loading = null; reject(new Error("the chart library did not load")); };
      document.head.append(script);
    });
    return loading;
  }

  function lookNow() {
    const look = FineserveCharts.lookOf(document.body);
    box.style.setProperty("--fineserve-paper", look.dark ? getComputedStyle(document.body).backgroundColor : "#fff");
    return look;
  }

  // Locust's page around it

  function follow() {
    const tabs = document.querySelector(".MuiTabs-root");
    const open = tabs !== null && new URLSearchParams(location.search).get("tab") === "llm";
    if (open) {
      const place = tabs.closest(".MuiContainer-root") || tabs.parentElement;
      if (box.parentNode !== place) place.append(box);
      box.style.color = getComputedStyle(document.body).color;
    }
    const opened = box.hidden && open;
    box.hidden = !open;
    if (opened) poll();
    else if (open && drawn && (FineserveCharts.lookOf(document.body).dark ? "dark" : "light") !== drawn) drawCharts();
  }

  let asked = false;
  const soon = () => {
    if (asked) return;
    asked = true;
    requestAnimationFrame(() => { asked = false; follow(); });
  };
  new MutationObserver((changes) => {
    if (changes.some((change) => !box.contains(change.target))) soon();
  }).observe(document.getElementById("root"), { childList: true, subtree: true });
  new MutationObserver(soon).observe(document.head, { childList: true, subtree: true });  // Locust's styles, so its theme
  for (const event of ["click", "keyup", "popstate"]) addEventListener(event, () => { soon(); setTimeout(soon, 100); });
  document.addEventListener("visibilitychange", () => poll());
  follow();
})();
