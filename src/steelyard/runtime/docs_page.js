"use strict";
// Shows openapi.json without anything from elsewhere. All text is set as text, never as markup.
const make = (tag, text, ...inside) => {
  const node = document.createElement(tag);
  if (text) node.textContent = text;
  node.append(...inside);
  return node;
};

const expand = (schema, all, depth = 0) => {
  if (!schema || depth > 6) return schema;
  if (schema.$ref) return expand(all[schema.$ref.split("/").pop()], all, depth + 1);
  if (Array.isArray(schema)) return schema.map((one) => expand(one, all, depth));
  if (typeof schema !== "object") return schema;
  return Object.fromEntries(Object.entries(schema).map(([name, value]) =>
    [name, typeof value === "object" ? expand(value, all, depth + 1) : value]));
};

const showSchema = (content, all) => {
  const media = Object.keys(content || {})[0];
  if (!media) return make("span");
  const text = JSON.stringify(expand(content[media].schema, all), null, 2);
  return make("div", "", make("p", media), make("pre", text));
};

const showOperation = (path, method, operation, all) => {
  const head = make("summary");
  const name = make("span", method.toUpperCase());
  name.className = "method";
  head.append(name, make("code", path), " — " + (operation.summary || ""));
  const inside = make("div");
  inside.className = "inside";
  inside.append(make("p", operation.description || ""));
  inside.append(make("p", "Permission: " + (operation["x-permission"] || "none")));
  if ((operation.parameters || []).length) {
    const table = make("table");
    for (const one of operation.parameters) {
      const required = one.required ? "required" : "";
      table.append(make("tr", "", make("td", one.name), make("td", one.in), make("td", required),
        make("td", one.description || (one.schema && one.schema.type) || "")));
    }
    inside.append(make("h3", "Parameters"), table);
  }
  if (operation.requestBody) {
    inside.append(make("h3", "Body"), showSchema(operation.requestBody.content, all));
  }
  inside.append(make("h3", "Answers"));
  for (const [status, answer] of Object.entries(operation.responses || {})) {
    const detail = make("details", "", make("summary", status + "  " + answer.description));
    detail.append(showSchema(answer.content, all));
    inside.append(detail);
  }
  const whole = make("details", "", head, inside);
  whole.dataset.words = [path, method, operation.summary].join(" ").toLowerCase();
  return whole;
};

const show = (api) => {
  const all = api.components.schemas;
  const groups = new Map();
  for (const [path, methods] of Object.entries(api.paths)) {
    for (const [method, operation] of Object.entries(methods)) {
      const tag = (operation.tags || ["access"])[0];
      if (!groups.has(tag)) groups.set(tag, make("section", "", make("h2", tag)));
      groups.get(tag).append(showOperation(path, method, operation, all));
    }
  }
  document.getElementById("operations").append(...groups.values());
  document.getElementById("about").textContent = `${api.info.title} ${api.info.version}. ${api.info.description}`;
};

document.getElementById("find").addEventListener("input", (event) => {
  const wanted = event.target.value.toLowerCase();
  for (const one of document.querySelectorAll("details[data-words]")) {
    one.hidden = !one.dataset.words.includes(wanted);
  }
});

fetch("openapi.json").then((answer) => answer.json()).then(show).catch((error) => {
  document.getElementById("about").textContent = "openapi.json could not be read: " + error;
});
