// VUS customers watch their orders' drivers over WebSockets, while each driver sends a fix a second.
import http from "k6/http";
import exec from "k6/execution";
import { check, sleep } from "k6";
import { Trend } from "k6/metrics";
import { WebSocket } from "k6/websockets";
import {
  DURATION, LOGISTICS, ORDER, admin, any, as, customers, drivers, even, fix, fleet, json, kitchens,
  order, paid,
} from "./lib.js";

const VUS = Math.min(Number(__ENV.VUS || 20), customers.length, drivers.length);
const pushLatency = new Trend("push_latency", true);

export const options = {
  scenarios: {
    watch: { executor: "per-vu-iterations", vus: VUS, iterations: 1, exec: "watch", maxDuration: "1h" },
    drive: { ...even(1), exec: "drive" },
  },
  setupTimeout: "5m",
  thresholds: { push_latency: ["p(95)<300"], checks: ["rate==1"] },
};

/** Each customer has a paid order, and a driver of its own brings it. */
export function setup() {
  const found = kitchens(20);
  const headers = as(admin);
  return customers.slice(0, VUS).map((customer, n) => {
    let id;
    while (!id || paid(customer, id) !== "paid") id = order(customer, any(found));
    const driver = drivers[n].id;
    const scooter = JSON.stringify({ driver_id: driver, vehicle: "scooter" });
    http.post(`${LOGISTICS}/api/v1/drivers`, scooter, { headers });
    const body = JSON.stringify({ driver_id: driver });
    const url = `${LOGISTICS}/api/v1/deliveries/${id}/assign`;
    // The delivery is made of an event, which may not have come yet.
    while (http.post(url, body, { headers }).status === 404) sleep(0.1);
    return { id, token: customer.token };
  });
}

/** @param {{ id: string, token: string }[]} orders */
export function watch(orders) {
  const { id, token } = orders[exec.scenario.iterationInTest % orders.length];
  const granted = http.post(`${ORDER}/api/v1/orders/${id}/tracking-token`, "{}", { headers: as(token) });
  const url = `${LOGISTICS.replace("http", "ws")}/api/v1/drivers/orders/${id}/driver-location`;
  const socket = new WebSocket(url);
  let [seq, newest] = [-1, 0];
  socket.onopen = () => {
    socket.send(JSON.stringify({ type: "subscribe", token: json(granted).token }));
    setTimeout(() => socket.close(), Number.parseFloat(DURATION) * 1000);
  };
  socket.onmessage = (event) => {
    const told = JSON.parse(String(event?.data));
    if (told.type === "connected") seq = told.seq;
    if (told.type === "status_change") {
      check(told, { "events come in turn": (told) => told.seq === seq + 1 });
      seq = told.seq;
    }
    if (told.type === "location_update") {
      const at = Date.parse(told.timestamp);
      check(at, { "position does not go back": (at) => at >= newest });
      newest = at;
      pushLatency.add(Date.now() - at);
    }
  };
  socket.onerror = () => check(null, { "socket stays open": () => false });
}

/** All drivers of the orders send, by their fleet's gateway. */
export function drive() {
  const body = JSON.stringify({ points: drivers.slice(0, VUS).map(({ id }) => fix(id)) });
  const answer = http.post(`${LOGISTICS}/api/v1/locations`, body, { headers: as(fleet) });
  check(answer, { "fixes are accepted": (answer) => answer.status === 202 });
}
