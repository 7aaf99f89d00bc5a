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
  '<body><main id="root"></main><script src="/app.js"></script></body></html>';
const servers = [];

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

answer(
  {
    // Serves the application that talks to `http://localhost:<gatewayPort>/balance`; returns its own port.
    serve: async (gatewayPort) => {
      const script = await bundle(gatewayPort);
      const server = http.createServer((request, response) => {
        const isScript = request.url === "/app.js";
        response.setHeader("Content-Type", `text/${isScript ? "javascript" : "html"}; charset=utf-8`);
        response.end(isScript ? script : PAGE);
      });
      servers.push(server);
      await new Promise((resolve) => server.listen(0, "localhost", resolve));
      return server.address().port;
    },
  },
  async () => {
    for (const server of servers) {
      server.closeAllConnections();
      server.close();
    }
    await esbuild.stop();
  },
);
