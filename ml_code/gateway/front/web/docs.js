let count = 0;

/** A field with its label. */
function field(label, control) {
  control.id = `field-${count++}`;
  return element("p", [element("label", label, "", { for: control.id }), " ", control]);
}

/** The parameters of an operation, as fields by name. */
function parameters(operation, defaults) {
  return new Map((operation.parameters ?? []).filter((one) => one.in !== "header").map((one) =>
    [one, element("input", "", "", { type: "text", value: defaults[one.name] ?? "", ...(one.required ? { required: "" } : {}) })]));
}

function bodyOf(operation, example) {
  const content = operation.requestBody?.content["application/json"];
  if (!content) return null;
  const start = element("textarea", "", "", { rows: 4, spellcheck: "false" });
  start.value = example ?? (content.example ? JSON.stringify(content.example) : "");
  return start;
}

function address(path, fields) {
  const query = [];
  for (const [one, input] of fields) {
    if (one.in === "path") path = path.replace(`{${one.name}}`, encodeURIComponent(input.value));
    else if (input.value) query.push(`${one.name}=${encodeURIComponent(input.value)}`);
  }
  return path.slice(1) + (query.length ? `?${query.join("&")}` : "");
}

function pretty(text) {
  // Parsing would round large whole numbers: only what is short of them is set out in lines.
  try { return /\d{16}/.test(text) ? text : JSON.stringify(JSON.parse(text), null, 2); } catch { return text; }
}

/** A form that sends a request, and shows the answer. */
function tryOut(method, path, operation, defaults, example) {
  const fields = parameters(operation, defaults), body = bodyOf(operation, example);
  const answer = element("pre", "", "", { role: "status" });
  answer.hidden = true;
  const form = element("form", [
    ...[...fields].map(([one, input]) => field(`${one.name}${one.required ? "" : " (may be empty)"}`, input)),
    ...(body ? [field("Body", body)] : []),
    element("button", "Send"), answer]);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    answer.hidden = false;
    answer.textContent = "asking …";
    try {
      const options = { method, ...(body ? { body: body.value, headers: { "Content-Type": "application/json" } } : {}) };
      const got = await ask(address(path, fields), options);
      const version = got.headers.get("X-Model-Version");
      answer.textContent = `${got.status}${version ? `, from version ${version}` : ""}\n${pretty(await got.text())}`;
    } catch {
      answer.textContent = "The gateway does not answer.";
    }
  });
  return form;
}

function refusals(responses) {
  const lines = Object.entries(responses).filter(([code]) => code !== "200")
    .flatMap(([code, about]) => [element("dt", code), element("dd", about.description)]);
  return element("details", [element("summary", "Other answers"), element("dl", lines)]);
}

function operation_(method, path, operation, status) {
  const example = path.startsWith("/predict") ? status?.example?.body : undefined;
  const defaults = { model: status?.model, version: status?.version };
  const verb = method.toUpperCase();
  return element("details", [
    element("summary", [element("strong", verb), " ", element("code", path), element("span", `  ${operation.description ?? operation.summary}`, "soft")]),
    tryOut(verb, path, operation, defaults, example),
    refusals(operation.responses),
  ]);
}

function show(documents, status) {
  const tags = new Map();
  for (const [path, operations] of Object.entries(documents.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const tag = operation.tags?.[0] ?? "other";
      tags.set(tag, [...(tags.get(tag) ?? []), operation_(method, path, operation, status)]);
    }
  }
  $("paths").replaceChildren(...[...tags].map(([tag, operations], place) => element("section", [
    element("h2", tag[0].toUpperCase() + tag.slice(1), "", { id: `tag-${place}` }), ...operations], "", { "aria-labelledby": `tag-${place}` })));
}

async function load() {
  try {
    const answer = await ask("openapi.json");
    const documents = await answer.json();
    if (!answer.ok) throw new Error(documents.error);
    // The fields begin with what the live version can answer.
    const status = await ask("status").then((got) => got.ok ? got.json() : null);
    show(documents, status);
    $("state").textContent = documents.info.description;
    $("state").className = "soft";
  } catch (error) {
    $("state").textContent = error instanceof TypeError ? "the gateway does not answer" : error.message;
    $("state").className = "bad";
  }
}

onKey(load);
load();
