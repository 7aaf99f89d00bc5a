// The npm socket.io-client, as many sockets as asked for, telling everything that happens to each in order.
"use strict";
const { io } = require("socket.io-client");
const { answer, tell } = require("./json_lines.cjs");

const sockets = new Map();

function listen(name, socket, insideConnect) {
  socket.on("connect", () => {
    tell({ socket: name, event: "connect", transport: socket.io.engine.transport.name });
    for (const event of insideConnect) {
      socket.once(event, (data) => tell({ socket: name, event: "heard_inside_connect", of: event, data }));
    }
  });
  socket.on("connect_error", (error) => {
    const { message, data = null } = error;
    tell({ socket: name, event: "connect_error", message, data, active: socket.active });
  });
  socket.on("disconnect", (reason) => {
    tell({ socket: name, event: "disconnect", reason, active: socket.active });
  });
  socket.onAny((event, ...data) => tell({ socket: name, event, data: data[0] ?? null }));
}

answer(
  {
    // `insideConnect`: events that also get a listener of their own from inside `on("connect")`.
    open: (name, url, options = {}, insideConnect = []) => {
      const socket = io(url, { reconnectionDelay: 50, reconnectionDelayMax: 200, ...options });
      sockets.set(name, socket);
      listen(name, socket, insideConnect);
    },
    // A client that keeps its positions and offers them whenever it connects: a completed transaction moves one, and so
    // does a balance that no transaction follows (a hold, a release), if nothing lies between.
    openWithPositions: (name, url, token, options = {}) => {
      const positions = {};
      const auth = (give) => give({ token, positions });
      const socket = io(url, { reconnectionDelay: 50, reconnectionDelayMax: 200, ...options, auth });
      socket.onAny((event, data) => {
        const { accountId, seq, prevSeq, transactionType } = data ?? {};
        const isLone = event === "balance_updated" && ["hold", "release"].includes(transactionType);
        if (event === "transaction_completed" || event === "balance_initial") positions[accountId] = seq;
        else if (isLone && positions[accountId] === prevSeq) positions[accountId] = seq;
      });
      sockets.set(name, socket);
      listen(name, socket, []);
    },
    emit: (name, event, ...data) => {
      sockets.get(name).emit(event, ...data);
    },
    emitWithAck: (name, event, ...data) => sockets.get(name).timeout(5000).emitWithAck(event, ...data),
    setAuth: (name, auth) => {
      sockets.get(name).auth = auth;
    },
    connect: (name) => {
      sockets.get(name).connect();
    },
    disconnect: (name) => {
      sockets.get(name).disconnect();
    },
    // The connection breaks, as seen from the client.
    breakTransport: (name) => {
      sockets.get(name).io.engine.transport.close();
      sockets.get(name).io.engine.close();
    },
    state: (name) => {
      const { connected, active, recovered } = sockets.get(name);
      return { connected, active, recovered, transport: sockets.get(name).io.engine?.transport.name };
    },
    isSharing: (one, other) => sockets.get(one).io === sockets.get(other).io,
  },
  async () => {
    for (const socket of sockets.values()) socket.disconnect();
  },
);
