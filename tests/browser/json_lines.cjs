// A script that tests talk to in JSON lines: `{id, command, arguments}` comes in, `{id, result}` or `{id, error}`
// goes out, and between them whatever the script tells by itself. It ends when its input ends.
"use strict";
const readline = require("node:readline");

function write(message) {
  process.stdout.write(`${JSON.stringify(message)}\n`);
}

exports.tell = write;

exports.answer = function answer(commands, end = async () => {}) {
  const lines = readline.createInterface({ input: process.stdin });
  lines.on("line", async (line) => {
    const { id, command, arguments: given } = JSON.parse(line);
    try {
      write({ id, result: (await commands[command](...given)) ?? null });
    } catch (error) {
      write({ id, error: error.message });
    }
  });
  lines.on("close", async () => {
    await end();
    process.exit(0);
  });
};
