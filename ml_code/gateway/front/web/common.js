"use strict";
const $ = (id) => document.getElementById(id);
const api = new URL(".", location.href);

/** Make an element. Everything that is shown is text: nothing from a model, a person or a log becomes markup. */
function element(name, content, className, attributes = {}) {
  const made = document.createElement(name);
  for (const part of [content].flat()) if (part !== undefined && part !== null) made.append(part);
  if (className) made.className = className;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

/** Make a link; of a text that is no web address, the text alone. */
function link(text, url) {
  return /^https?:\/\//.test(url) ? element("a", text, "", { href: url, rel: "noreferrer" }) : element("span", text);
}

function length(s) {
  if (!isFinite(s)) return "";
  return s < 90 ? `${Math.max(0, Math.round(s))} s` : s < 5400 ? `${Math.round(s / 60)} min` : s < 129600 ? `${Math.round(s / 3600)} h` : `${Math.round(s / 86400)} days`;
}

/** Ask the gateway, with the key that the reader gave; asks for a key where one is wanted. */
async function ask(path, options = {}) {
  const key = sessionStorage.getItem("key");
  const headers = { ...options.headers, ...(key ? { "X-Api-Key": key } : {}) };
  const answer = await fetch(new URL(path, api), { ...options, headers, cache: "no-store" });
  $("access").hidden = answer.status !== 401 && answer.status !== 403;
  return answer;
}

/** Call a function when a key was given. */
function onKey(then) {
  $("access").addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem("key", $("key").value);
    then();
  });
}
