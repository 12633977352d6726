// Customers order and pay, RATE a second; one of twenty calls off what it has paid.
import http from "k6/http";
import { check } from "k6";
import { Trend } from "k6/metrics";
import { ORDER, RATE, any, as, customers, even, kitchens, order, paid } from "./lib.js";

const paidDuration = new Trend("order_paid_duration", true);

export const options = {
  scenarios: { orders: even(RATE) },
  thresholds: {
    "http_req_duration{name:POST /orders}": ["p(95)<200"],
    order_paid_duration: ["p(95)<2000"],
    http_req_failed: ["rate<0.001"],
    checks: ["rate==1"],
  },
};

export function setup() {
  return kitchens(50);
}

/** @param {{ id: number, items: number[] }[]} found */
export default function (found) {
  const customer = any(customers);
  const begun = Date.now();
  const id = order(customer, any(found));
  if (!id) return;
  const end = paid(customer, id);
  check(end, { "payment comes to an end": (end) => end !== "processing" });
  if (end !== "paid") return;
  paidDuration.add(Date.now() - begun);
  if (Math.random() < 0.05) {
    const params = { headers: as(customer.token), tags: { name: "POST /orders/{id}/cancel" } };
    const answer = http.post(`${ORDER}/api/v1/orders/${id}/cancel`, "{}", params);
    check(answer, { "order is called off": (answer) => answer.status === 200 });
  }
}
