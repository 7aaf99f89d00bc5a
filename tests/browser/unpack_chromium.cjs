// Unpacks Chromium, its fonts and the libraries it needs into os.tmpdir(), which the caller sets by TMPDIR.
"use strict";
const path = require("node:path");
const { default: chromium, inflate } = require("@sparticuz/chromium");

async function unpack() {
  const program = await chromium.executablePath();
  const packed = path.join(path.dirname(require.resolve("@sparticuz/chromium")), "..", "bin");
  await inflate(path.join(packed, "al2023.tar.br"));
  process.stdout.write(program);
}

unpack();
