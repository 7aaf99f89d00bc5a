// Bundles the React hook of the reference as it stands and serves it on localhost, as an application would.
// Two things differ from the text: the port, and that the component is exported so that somebody can mount it.
"use strict";
const fs = require("node:fs");
const http = require("node:http");
const path = require("node:path");
const esbuild = require("esbuild");
const { answer } = require("./json_lines.cjs");

const FOLDER = path.join(__dirname, "host_app");
const PAGE =
  '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Host</title><link rel="icon" href="data:,"></head>' +
  '<body><main id="root"></main><script src="app.js"></script></body></html>';
let server = null;

function asItStands(port) {
  const load = ({ path: file }) => {
    let contents = fs.readFileSync(file, "utf8").replace("http://localhost:3000", `http://localhost:${port}`);
    if (file.endsWith("BalanceDisplay.tsx")) contents += "\nexport { BalanceDisplay };\n";
    return { contents, loader: path.extname(file).slice(1) };
  };
  return { name: "as-it-stands", setup: (build) => build.onLoad({ filter: /host_app.*\.tsx?$/ }, load) };
}

async function bundle(port) {
  const made = await esbuild.build({
    entryPoints: [path.join(FOLDER, "page.tsx")],
    bundle: true,
    write: false,
    jsx: "automatic",
    define: { "process.env.NODE_ENV": '"production"' },
    nodePaths: [process.env.NODE_PATH],
    plugins: [asItStands(port)],
  });
  return made.outputFiles[0].text;
}

async function respond(request, response) {
  const [, gatewayPort, file] = request.url.split("/");
  const isScript = file === "app.js";
  response.setHeader("Content-Type", `text/${isScript ? "javascript" : "html"}; charset=utf-8`);
  response.end(isScript ? await bundle(Number(gatewayPort)) : PAGE);
}

answer(
  {
    // Serves on a port of localhost; `/<port>/` is the application that talks to the gateway on that port.
    serve: async (port) => {
      server = http.createServer(respond);
      await new Promise((resolve) => server.listen(port, "localhost", resolve));
    },
  },
  async () => {
    server?.closeAllConnections();
    server?.close();
    await esbuild.stop();
  },
);
