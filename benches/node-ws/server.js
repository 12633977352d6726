// Tracking sockets as one writes them on Node with `ws`: what `loadtest push` says of them is what
// ours are compared with. It takes positions from the same channels of the `live` Redis, sends the
// same messages and pings as often. It checks no tokens, keeps no history and no status.
'use strict';

const http = require('node:http');
const { WebSocketServer } = require('ws');
const Redis = require('ioredis');

const SHARDS = 16;
const FRAME_HEADER = 17; // contracts/src/frame.rs
const POSITION = 64; // contracts/src/position.rs
const PING_EVERY_MS = 20_000;

const [host, port] = process.env.LOGISTICS_LISTEN.split(':');
const driverOf = new Map(); // by order
const socketOf = new Map(); // by driver

const server = http.createServer((request, response) => {
  let body = '';
  request.on('data', (part) => { body += part; });
  request.on('end', () => {
    if (request.method === 'POST' && request.url === '/api/v1/deliveries') {
      const { order_id, driver_id } = JSON.parse(body);
      driverOf.set(order_id, driver_id);
    }
    response.writeHead(request.method === 'POST' ? 201 : 200, { 'content-type': 'application/json' });
    response.end('{}');
  });
});

const sockets = new WebSocketServer({ noServer: true, perMessageDeflate: false, maxPayload: 4096 });
server.on('upgrade', (request, stream, head) => {
  sockets.handleUpgrade(request, stream, head, (socket) => {
    const order_id = request.url.split('/').at(-2);
    const driver_id = driverOf.get(order_id);
    let isAlive = true;
    let pinging;
    socket.on('pong', () => { isAlive = true; });
    socket.once('message', () => {
      socketOf.set(driver_id, socket);
      socket.send(JSON.stringify({
        type: 'connected', order_id, status: 'assigned', seq: 1, driver_id, location: null,
      }));
      pinging = setInterval(() => {
        if (!isAlive) return socket.terminate();
        isAlive = false;
        socket.ping();
      }, PING_EVERY_MS);
    });
    socket.on('close', () => {
      clearInterval(pinging);
      if (socketOf.get(driver_id) === socket) socketOf.delete(driver_id);
    });
  });
});

const known = (value) => (Number.isNaN(value) ? null : value);

function update(frame, at) {
  const us = frame.readBigInt64BE(at + 8);
  const timestamp = new Date(Number(us / 1000n)).toISOString().slice(0, -1);
  return JSON.stringify({
    type: 'location_update',
    driver_id: Number(frame.readBigInt64BE(at)),
    latitude: frame.readInt32BE(at + 28) / 1e7,
    longitude: frame.readInt32BE(at + 32) / 1e7,
    speed: known(Math.round(frame.readFloatBE(at + 36) * 3600) / 1000),
    heading: known(frame.readFloatBE(at + 40)),
    accuracy: known(frame.readFloatBE(at + 44)),
    timestamp: `${timestamp}${String(us % 1000n).padStart(3, '0')}Z`,
  });
}

async function main() {
  const shards = Array.from({ length: SHARDS }, (_, shard) => shard);
  const redis = new Redis(process.env.REDIS_LIVE_URL);
  // The publisher goes on in the epoch that a worker of logistics would have begun.
  const epoch = Buffer.alloc(8);
  epoch.writeBigUInt64BE(1n);
  for (const shard of shards) await redis.set(`epoch:{${shard}}`, epoch);
  redis.on('messageBuffer', (_channel, frame) => {
    for (let at = FRAME_HEADER; at < frame.length; at += POSITION) {
      const socket = socketOf.get(Number(frame.readBigInt64BE(at)));
      if (socket) socket.send(update(frame, at));
    }
  });
  await redis.subscribe(...shards.map((shard) => `live:{${shard}}`));
  server.listen(Number(port), host);
  process.on('SIGTERM', () => process.exit(0));
}

main();
