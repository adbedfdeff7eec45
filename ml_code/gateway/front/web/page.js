const POLL_MS = 2000, LONG = 240;
const SOURCES = {
  golden: "The inputs are golden inputs that were logged with the model.",
  input_example: "The inputs are from the input example that was logged with the model.",
  generated: "The inputs are made up from the signature: the model has none that can be shown here.",
};
let status_ = null;
const drawn = {};

/** Draw a part of the page when its data has changed: what a reader has open, selected or focused stays. */
function part(id, data, draw) {
  const text = JSON.stringify(data ?? null);
  if (drawn[id] === text) return;
  drawn[id] = text;
  $(id).replaceChildren(...draw());
}

const ms = (s) => s == null ? "–" : s < 0.01 ? `${(1000 * s).toFixed(1)} ms` : s < 10 ? `${Math.round(1000 * s)} ms` : `${s.toFixed(0)} s`;
const percent = (share) => share ? `${(100 * share).toFixed(2)} %` : "0 %";
const whole = (number) => Math.round(number).toLocaleString("en");

/** A moment, with its age, which `tick` keeps true. */
function moment(text) {
  if (!text || isNaN(Date.parse(text))) return element("span", "–");
  return element("time", "", "", { datetime: text, title: text });
}

function tick() {
  for (const time of document.querySelectorAll("time")) {
    const text = time.getAttribute("datetime"), s = (Date.now() - Date.parse(text)) / 1000;
    const shown = `${text.replace("T", " ").slice(0, 16)} UTC, ${s < 0 ? `in ${length(-s)}` : `${length(s)} ago`}`;
    if (time.textContent !== shown) time.textContent = shown;
  }
}

/** A version, with a link to its page in MLflow. */
function version(number, text = `version ${number}`) {
  const { mlflow } = status_.links, name = encodeURIComponent(status_.model);
  return mlflow ? link(text, `${mlflow}/#/models/${name}/versions/${number}`) : element("span", text);
}

function run(id) {
  const { mlflow } = status_.links;
  return mlflow ? link(id, `${mlflow}/#/runs/${encodeURIComponent(id)}`) : element("span", id);
}

/** Who asked for a deploy, with a link to the run in Airflow. */
function actor(name) {
  const found = /^airflow:(.+)$/s.exec(name ?? "");
  if (!found) return element("span", name || "unknown");
  const { airflow } = status_.links, text = `Airflow run ${found[1]}`;
  return airflow ? link(text, `${airflow}/dag_runs?run_id_pattern=${encodeURIComponent(found[1])}`) : element("span", text);
}

function facts(pairs) {
  return pairs.filter(([, value]) => value != null && value !== "").flatMap(([name, value]) => [element("dt", name), element("dd", value)]);
}

function live(status) {
  const release = status.releases[0] ?? {};
  return facts([
    ["since", status.since_utc && moment(status.since_utc)],
    ["by", release.actor && actor(release.actor)],
    ["why", release.reason && text(release.reason)],
    ["how it does", release.verdict ? text(release.verdict) : (status.version && status.backend === "triton" ? "no verdict" : "")],
    ["generation", status.generation && String(status.generation)],
    ["alias", status.alias],
    ["MLflow", status.version && status.links.mlflow && version(status.version)],
    ["run", status.run_id && run(status.run_id)],
    ["version before", status.previous_version && version(status.previous_version, String(status.previous_version))],
    ["digest", status.digest && element("span", status.digest, "code")],
    ["backend", status.backend],
  ]);
}

function steps(deploy) {
  let before = Date.parse(deploy.began_utc);
  return element("ol", deploy.steps.map((step) => {
    const ended = Date.parse(step.ended_utc), took = (ended - before) / 1000;
    if (step.ended_utc) before = ended;
    const failed = deploy.failure && step.name === deploy.step && step.state !== "done";
    const said = failed ? "failed" : { done: took < 10 ? `${took.toFixed(1)} s` : length(took), now: "now", due: "to come" }[step.state];
    return element("li", [step.name, element("span", `, ${said}`, step.state === "due" && !failed ? "unseen" : "")], failed ? "failed" : step.state);
  }), "steps");
}

function canary(one) {
  const shown = [];
  const share = one.share_percent || one.mirrored_percent;
  shown.push(element("p", one.step ? `Canary, step ${one.step} of ${one.steps.length}: ${one.is}.` : `Canary, not begun: ${one.steps.join(", then ")}.`));
  if (one.step) {
    shown.push(element("progress", "", "", { max: 100, value: share, "aria-label": "Share of the requests that the candidate gets" }));
    const end = new Date(Date.parse(one.since_utc) + 1000 * one.step_s);
    shown.push(element("p", one.held_for ? ["The step waits: ", one.held_for] : ["The step ends ", isNaN(end) ? "–" : moment(end.toISOString())]));
  }
  if (one.told) shown.push(element("p", `${one.told.by} said ${one.told.what}${one.told.reason ? `: ${one.told.reason}` : ""}`));
  if (one.verdict) shown.push(element("p", `Judged: ${one.verdict}${one.why ? `: ${one.why}` : ""}`, "reason"));
  return shown;
}

function now(status) {
  const deploy = status.under_way, shown = [];
  if (deploy) {
    shown.push(element("p", ["Deploy of ", version(deploy.version), deploy.alias ? ` by alias ${deploy.alias}` : "", deploy.has_lease ? "." : ". Its process has been silent for too long: reconcile will finish it or roll it back."]));
    shown.push(steps(deploy));
    if (deploy.failure) shown.push(element("p", [element("strong", "It failed, and is rolled back: "), deploy.failure], "bad reason"));
    if (deploy.canary && !deploy.failure) shown.push(...canary(deploy.canary));
    shown.push(element("dl", facts([["began", moment(deploy.began_utc)], ["by", deploy.actor && actor(deploy.actor)], ["why", deploy.reason && text(deploy.reason)], ["deployment", deploy.deploy_id]])));
  } else shown.push(element("p", "No deploy is under way.", "soft"));
  if (status.baking) shown.push(element("p", [`Version ${status.version} bakes on live traffic; the bake ends `, moment(status.baking.until_utc)]));
  return shown;
}

function traffic(status) {
  if (!status.versions.length) return [element("p", "No requests.", "soft")];
  const names = { [status.version]: "live", [status.candidate?.version]: "candidate", [status.previous_version]: "before" };
  const total = status.versions.reduce((sum, one) => sum + one.requests, 0);
  const head = element("thead", element("tr", ["version", "requests", "share", "failed", "p50", "p95"].map((text) => element("th", text, "", { scope: "col" }))));
  const lines = status.versions.map((one) => element("tr", [
    element("th", names[one.version] ? `${one.version} (${names[one.version]})` : String(one.version), "", { scope: "row" }),
    ...[whole(one.requests), `${Math.round(100 * one.requests / total)} %`, percent(one.failed), ms(one.p50_s), ms(one.p95_s)].map((text, column) => element("td", text, column === 2 && one.failed ? "bad" : "")),
  ]));
  return [element("table", [element("caption", `By version, within ${length(status.window_s)}`), head, element("tbody", lines)])];
}

/** JSON as a word of a shell; what would be shown elsewhere than it stands is written as an escape. */
function quoted(json) {
  const plain = json.replace(/[\p{Cc}\p{Cf}\u2028\u2029]/gu, (one) => [...Array(one.length).keys()].map((at) => `\\u${one.charCodeAt(at).toString(16).padStart(4, "0")}`).join(""));
  return `'${plain.replaceAll("'", "'\\''")}'`;
}

function command(status) {
  const at = (path) => new URL(`${path}/${encodeURIComponent(status.model)}`, api).href;
  const key = status.needs_key ? " \\\n  -H \"X-Api-Key: $KEY\"" : "", json = " \\\n  -H 'Content-Type: application/json'";
  if (status.example.body !== null) return `curl -sS ${at("predict")}${key}${json} \\\n  -d ${quoted(status.example.body)}`;
  return `curl -sS ${at("model-info")}/example${key} |\n  curl -sS ${at("predict")}${key}${json} -d @-`;
}

function call(status) {
  if (!status.example) return [element("p", status.version ? "The inputs of this model can't be shown as JSON." : "Nothing is live.", "soft")];
  const size = status.example.body === null ? ` One request has ${whole(status.example.bytes)} bytes.` : "";
  return [element("pre", command(status), "", { id: "command" }), element("p", SOURCES[status.example.source] + size, "soft")];
}

function text(long) {
  if (long.length <= LONG) return element("p", long, "reason");
  return element("details", [element("summary", `${long.slice(0, LONG / 2)} …`), element("p", long, "reason")]);
}

function release(one, isLive) {
  const back = one.previous_version > one.active_version ? `, back from ${one.previous_version}` : "";
  return element("li", [
    element("h3", [version(one.active_version, `Version ${one.active_version}`), isLive ? ` is live${back}` : ` went live${back}`]),
    element("p", [moment(one.updated_at_utc), one.generation ? `, generation ${one.generation}` : "", one.alias ? `, alias ${one.alias}` : "", ", by ", actor(one.actor)], "soft"),
    ...(one.reason ? [text(`Why: ${one.reason}`)] : []),
    ...(one.verdict ? [text(`How it did: ${one.verdict}`)] : []),
  ], isLive ? "live" : "");
}

function failure(one) {
  return element("li", [
    element("h3", [version(one.version, `Version ${one.version}`), element("span", one.step ? ` failed in step ${one.step}` : " failed", "bad")]),
    text(one.error),
    element("p", [moment(one.at_utc), one.alias ? `, alias ${one.alias}` : "", ...(one.actor ? [", by ", actor(one.actor)] : []), one.deploy_id ? `, deployment ${one.deploy_id}` : ""], "soft"),
    ...(one.reason ? [text(`Why it was deployed: ${one.reason}`)] : []),
  ], "failure");
}

function history(status, shown) {
  const releases = status.releases.map((one, place) => [one.updated_at_utc, release(one, place === 0), "release"]);
  const failures = status.failures.map((one) => [one.at_utc, failure(one), "failure"]);
  const both = [...releases, ...failures].filter(([, , kind]) => shown === "all" || shown === kind);
  both.sort(([a], [b]) => a < b ? 1 : a > b ? -1 : 0);
  both.find(([, , kind]) => kind === "failure")?.[1].setAttribute("id", "last-failure");
  return both.length ? both.map(([, item]) => item) : [element("li", "none yet", "soft")];
}

function alert_(status) {
  const last = status.failures[0];
  if (!last || last.at_utc < (status.since_utc ?? "")) return [];
  return [element("strong", `The last deploy failed: version ${last.version}${last.step ? ` in step ${last.step}` : ""}. `),
    status.version ? `Version ${status.version} still serves. ` : "", element("a", "Why it failed", "", { href: "#last-failure" })];
}

function chart(id, lines, floor, words) {
  const top = Math.max(floor, ...lines.flatMap(([values]) => values.filter((v) => v != null)));
  $(id).setAttribute("aria-label", words);
  $(id).replaceChildren(...lines.map(([values, className]) => {
    const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
    const step = 100 / Math.max(1, values.length - 1);
    line.setAttribute("points", values.map((v, i) => `${(i * step).toFixed(2)},${(39 - 37 * (v ?? 0) / top).toFixed(2)}`).join(" "));
    line.setAttribute("class", className);
    return line;
  }));
}

function charts(status) {
  const points = status.minutes, last = points.filter((p) => p.p50_s != null).at(-1);
  const count = points.reduce((sum, p) => sum + p.rate, 0), failed = points.reduce((sum, p) => sum + p.rate * p.failed, 0);
  $("p50").textContent = last ? `p50 ${ms(last.p50_s)}` : "no requests";
  $("p95").textContent = last ? `, p95 ${ms(last.p95_s)}` : "";
  $("errors").textContent = count ? percent(failed / count) : "";
  $("rate").textContent = points.length ? `${points.at(-1).rate.toFixed(0)} a second` : "";
  chart("latency-chart", [[points.map((p) => p.p50_s), "one"], [points.map((p) => p.p95_s), "two"]], 0.001, `Latency: ${$("latency").textContent}`);
  chart("errors-chart", [[points.map((p) => p.failed), "bad"]], 0.01, `Failed: ${$("errors").textContent || "no requests"}`);
  chart("rate-chart", [[points.map((p) => p.rate), "one"]], 1, `Requests: ${$("rate").textContent || "none yet"}`);
}

function say(words, className) {
  if ($("state").textContent !== words) $("state").textContent = words;
  $("state").className = className;
}

function show(status) {
  status_ = status;
  $("version").textContent = status.version ?? "none";
  say(status.reason ? `not ready: ${status.reason}` : "ready", status.reason ? "bad" : "good");
  document.title = `${status.model} ${status.version ?? "–"}, model gateway`;
  part("model", [status.models, status.model], () => [...new Set([status.model, ...status.models])].sort().map((name) => new Option(name, name, false, name === status.model)));
  part("links", [status.model, status.links], () => [["Interface", "docs"], ["MLflow", status.links.mlflow && `${status.links.mlflow}/#/models/${encodeURIComponent(status.model)}`], ["Airflow", status.links.airflow], ["Documents", status.links.documents]]
    .filter(([, url]) => url).map(([name, url]) => element("li", element("a", name, "", { href: url, rel: "noreferrer" }))));
  const release = status.releases[0];
  part("facts", [status.model, status.version, status.since_utc, release, status.links], () => live(status));
  part("now", [status.under_way, status.baking, status.version, status.links], () => now(status));
  part("versions", [status.versions, status.window_s, status.version, status.candidate, status.previous_version], () => traffic(status));
  part("call", [status.model, status.version, status.example, status.needs_key], () => call(status));
  part("history", [status.model, status.releases, status.failures, status.links, $("shown").value], () => history(status, $("shown").value));
  part("alert", [status.failures[0], status.since_utc, status.version], () => alert_(status));
  $("alert").hidden = !$("alert").hasChildNodes();
  $("copy").hidden = !status.example;
  charts(status);
  tick();
}

async function refresh() {
  const model = $("model").value || new URLSearchParams(location.search).get("model") || "";
  let answer, content;
  try {
    answer = await ask(`status?model=${encodeURIComponent(model)}`);
    content = await answer.json();
  } catch {
    say("the gateway does not answer", "bad");
    return;
  }
  if (answer.ok) show(content);
  else say(content.error, "bad");
}

async function copy() {
  const selection = getSelection();
  selection.selectAllChildren($("command"));
  // Without TLS a browser has no clipboard for pages: then the command is selected.
  const done = navigator.clipboard ? await navigator.clipboard.writeText($("command").textContent).then(() => true, () => false) : document.execCommand("copy");
  $("copied").textContent = done ? "copied" : "selected: copy it with the keyboard";
}

onKey(refresh);
$("model").addEventListener("change", refresh);
$("shown").addEventListener("change", () => { if (status_) show(status_); });
$("copy").addEventListener("click", copy);
$("alert").addEventListener("click", () => { if ($("shown").value === "release") { $("shown").value = "all"; show(status_); } });
(async () => { for (;;) { await refresh(); await new Promise((done) => setTimeout(done, POLL_MS)); } })();
