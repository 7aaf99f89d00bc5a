// One Chromium, driven by playwright-core; every page has a context (storage, cookies) of its own.
"use strict";
const fs = require("node:fs");
const { chromium } = require("playwright-core");
const { answer, tell } = require("./json_lines.cjs");

let browser = null;
const pages = new Map();

function watch(id, page) {
  page.on("console", (message) => tell({ page: id, kind: message.type(), text: message.text() }));
  page.on("pageerror", (error) => tell({ page: id, kind: "pageerror", text: error.message }));
  page.on("requestfailed", (request) => {
    tell({ page: id, kind: "requestfailed", text: `${request.url()} ${request.failure()?.errorText}` });
  });
  page.on("websocket", (socket) => {
    socket.on("framesent", ({ payload }) => tell({ page: id, kind: "sent", text: String(payload) }));
    socket.on("framereceived", ({ payload }) => tell({ page: id, kind: "received", text: String(payload) }));
    socket.on("close", () => tell({ page: id, kind: "closed", text: socket.url() }));
  });
}

// Handles of Playwright (a Response, a Locator) have no place in JSON.
function plain(result) {
  const kept = Array.isArray(result) || Object.getPrototypeOf(Object(result)) === Object.prototype;
  return typeof result !== "object" || kept ? result : null;
}

async function run(target, method, given) {
  const names = method.split(".");
  const last = names.pop();
  for (const name of names) target = typeof target[name] === "function" ? target[name]() : target[name];
  return plain(await target[last](...given));
}

answer(
  {
    launch: async (executablePath, args) => {
      browser = await chromium.launch({ executablePath, args });
      return browser.version();
    },
    newPage: async (id, options, storage) => {
      const context = await browser.newContext(options);
      await context.addInitScript((items) => {
        for (const [key, value] of Object.entries(items)) localStorage.setItem(key, value);
      }, storage);
      const page = await context.newPage();
      pages.set(id, page);
      watch(id, page);
    },
    goto: async (id, url) => (await pages.get(id).goto(url))?.status() ?? null,
    // Any method of Playwright's Page; a dotted name reaches further: `keyboard.press`, `context.setOffline`.
    run: (id, method, ...given) => run(pages.get(id), method, given),
    // By asking again and again: Playwright's own way to wait needs `unsafe-eval`, which a good page forbids.
    waitUntil: async (id, expression, deadlineMs) => {
      const end = Date.now() + deadlineMs;
      while (!(await pages.get(id).evaluate(expression))) {
        if (Date.now() > end) throw new Error(`never true in ${deadlineMs} ms: ${expression}`);
        await new Promise((resolve) => setTimeout(resolve, 20));
      }
    },
    axe: async (id) => {
      await pages.get(id).evaluate(fs.readFileSync(require.resolve("axe-core/axe.min.js"), "utf8"));
      return pages.get(id).evaluate(async () => {
        const { violations } = await window.axe.run();
        return violations.map(({ id, help, nodes }) => ({ id, help, where: nodes.map((one) => one.html) }));
      });
    },
    closePage: async (id) => {
      await pages.get(id).context().close();
      pages.delete(id);
    },
  },
  async () => browser?.close(),
);
