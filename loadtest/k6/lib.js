// What the scripts have in common: addresses, tokens, and an order from the basket to paid.
import http from "k6/http";
import { check, sleep } from "k6";
import { SharedArray } from "k6/data";

export const ORDER = __ENV.ORDER_URL || "http://127.0.0.1:8000";
export const MENU = __ENV.MENU_URL || "http://127.0.0.1:8001";
export const LOGISTICS = __ENV.LOGISTICS_URL || "http://127.0.0.1:8002";
export const RATE = Number(__ENV.RATE || 50);
export const DURATION = __ENV.DURATION || "30s";

/**
 * What `loadtest tokens` has written.
 * @typedef {{ admin: string, fleet: string, customers: { id: number, token: string }[],
 *   drivers: { id: number, token: string }[] }} Tokens
 */
const file = __ENV.TOKENS || "tokens.json";
const tokens = /** @type {Tokens[]} */ (
  /** @type {unknown} */ (new SharedArray("tokens", () => [JSON.parse(open(file))]))
);
export const { admin, fleet, customers, drivers } = tokens[0];

/** @param {string} token @param {Record<string, string>} [more] */
export function as(token, more) {
  return { Authorization: `Bearer ${token}`, "Content-Type": "application/json", ...more };
}

/** @template T @param {T[]} list @returns {T} */
export function any(list) {
  return list[Math.floor(Math.random() * list.length)];
}

/** The JSON of an answer, whatever it is. @param {http.Response} answer @returns {any} */
export function json(answer) {
  try {
    return answer.json();
  } catch {
    return {};
  }
}

export function uuid() {
  return "xxxxxxxx-xxxx-4xxx-8xxx-xxxxxxxxxxxx".replace(/x/g, () =>
    Math.floor(Math.random() * 16).toString(16),
  );
}

/** Restaurants with what can be ordered there, for setup(). @param {number} count */
export function kitchens(count) {
  const list = json(http.get(`${MENU}/api/v1/restaurants?open_now=true&page_size=${count}`));
  const found = [];
  for (const { restaurant_id } of list.restaurants || []) {
    const menu = json(http.get(`${MENU}/api/v1/restaurants/${restaurant_id}/menu`));
    const items = (menu.categories || [])
      .flatMap((/** @type {any} */ category) => category.items)
      .filter((/** @type {any} */ item) => item.available && item.in_stock)
      .map((/** @type {any} */ item) => item.item_id);
    if (items.length > 0) found.push({ id: restaurant_id, items });
  }
  if (found.length === 0) throw new Error("there is no restaurant: see README.md");
  return found;
}

/**
 * Orders three things; the order's id, or nothing.
 * @param {{ token: string }} customer @param {{ id: number, items: number[] }} kitchen
 * @returns {string | undefined}
 */
export function order(customer, kitchen) {
  const body = JSON.stringify({
    restaurant_id: kitchen.id,
    items: [1, 2, 3].map((quantity) => ({ item_id: any(kitchen.items), quantity })),
    delivery_address: "1 Load Street",
    payment_method: "credit_card",
  });
  const headers = as(customer.token, { "Idempotency-Key": uuid() });
  const params = { headers, tags: { name: "POST /orders" } };
  const answer = http.post(`${ORDER}/api/v1/orders`, body, params);
  check(answer, { "order is accepted": (answer) => answer.status === 202 });
  return json(answer).order_id;
}

/**
 * Asks for an order until its payment has an end; answers how it ended.
 * @param {{ token: string }} customer @param {string} id @returns {string}
 */
export function paid(customer, id) {
  const params = { headers: as(customer.token), tags: { name: "GET /orders/{id}" } };
  for (let n = 0; n < 300; n += 1) {
    const { payment_status } = json(http.get(`${ORDER}/api/v1/orders/${id}`, params));
    if (payment_status && payment_status !== "processing") return payment_status;
    sleep(0.1);
  }
  return "processing";
}

/** A fix of a driver that circles over San Francisco. @param {number} driver */
export function fix(driver) {
  const angle = driver + Date.now() / 60000;
  return {
    driver_id: driver,
    latitude: 37.77 + 0.01 * Math.sin(angle),
    longitude: -122.42 + 0.01 * Math.cos(angle),
    speed: 30,
    recorded_at: new Date().toISOString(),
    event_id: uuid(),
  };
}

/** An even stream of iterations. @param {number} rate */
export function even(rate) {
  return {
    executor: "constant-arrival-rate",
    rate,
    timeUnit: "1s",
    duration: DURATION,
    preAllocatedVUs: Math.max(10, Math.ceil(rate / 5)),
    maxVUs: Math.max(50, rate * 2),
  };
}
