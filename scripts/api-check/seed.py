"""Fills running services through their own doors: restaurants, drivers, orders in several states."""

import time
import uuid

import httpx

CUSTOMER, DRIVER, OPERATOR = 7, 5, 50
WAIT_S = 30


class Api:
    """One service, called by one role."""

    def __init__(self, url, token=None):
        headers = {"authorization": f"Bearer {token}"} if token else {}
        self.client = httpx.Client(base_url=f"{url}/api/v1", headers=headers, timeout=30)

    def call(self, method, path, body=None, headers=None):
        answer = self.client.request(method, path, json=body, headers=headers)
        if answer.is_error:
            raise SystemExit(f"seed: {method} {path}: {answer.status_code} {answer.text}")
        return answer.json() if answer.content else None


def until(what, done):
    """Waits until `done` answers something true, and returns that."""
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        if found := done():
            return found
        time.sleep(0.05)
    raise SystemExit(f"seed: {what} did not happen within {WAIT_S} s")


def restaurant(menu, number):
    made = menu.call("POST", "/restaurants", {
        "name": f"Kitchen {number}", "cuisines": ["indian"], "address": f"{number} Main St",
        "city": "Springfield", "country": "US", "latitude": 37.77, "longitude": -122.41,
        "time_zone": "UTC", "opening_hours": "24/7", "currency": "USD", "delivery_fee": 300,
    })["restaurant_id"]
    menu.call("PUT", f"/restaurants/{made}/menu", {"categories": [{"name": "Mains", "items": [
        {"name": "Curry", "price": 1450, "options": [
            {"name": "Size", "min": 0, "max": 1, "choices": [{"name": "Large", "price": 200}]}]},
        {"name": "Dal", "price": 1190},
    ]}]})
    menu.call("PUT", f"/restaurants/{made}/status", {"status": "open"})
    category = menu.call("GET", f"/restaurants/{made}/menu")["categories"][0]
    return made, category["category_id"], [item["item_id"] for item in category["items"]]


def place(order, restaurant_id, item_id):
    body = {
        "restaurant_id": restaurant_id, "items": [{"item_id": item_id, "quantity": 1}],
        "delivery_address": "1 Main St", "payment_method": "credit_card",
    }
    made = order.call("POST", "/orders", body, {"idempotency-key": str(uuid.uuid4())})
    return made["order_id"]


def seed(urls, token):
    """Returns ids that exist, by the name of the parameter that takes them."""
    menu, order, logistics = urls["menu-api"], urls["order-api"], urls["logistics"]
    admin = token("admin", 1)
    drivers = Api(logistics, admin)
    # For calls that delete or replace: orders need the others as they are. They come first, as the
    # ids 1 and 2 are in every other case that is to be refused.
    spare, spare_category, spare_items = restaurant(Api(menu, token("operator", OPERATOR)), 1)
    restaurant(Api(menu, admin), 2)
    first, category, items = restaurant(Api(menu, token("operator", OPERATOR)), 3)
    operator = token("operator", OPERATOR, [first])
    second, _, more = restaurant(Api(menu, admin), 4)
    for driver in (DRIVER, 6):
        body = {"driver_id": driver, "vehicle": "scooter", "capacity": 100}
        drivers.call("POST", "/drivers", body)
        phone = Api(logistics, token("driver", driver))
        phone.call("PUT", f"/drivers/{driver}/status", {"state": "online"})
        phone.call("POST", f"/drivers/{driver}/location", {"latitude": 37.77, "longitude": -122.41})

    customer, kitchen = Api(order, token("customer", CUSTOMER)), Api(order, operator)
    orders = [place(customer, first, items[n % 2]) for n in range(8)]
    orders.append(place(customer, second, more[0]))

    def paid(order_id):
        state = customer.call("GET", f"/orders/{order_id}")["status"]
        return state not in ("payment_processing", "created") and state

    # Some are declined, by the gateway's own dice; they are orders in a state too.
    confirmed = [o for o in orders if until(f"a payment of {o}", lambda: paid(o)) == "confirmed"]
    mine = [o for o in confirmed if o != orders[-1]]
    if len(mine) < 4:
        raise SystemExit("seed: too many payments were declined")
    phone = Api(logistics, token("driver", DRIVER))
    for steps, order_id in enumerate(mine[:6]):
        if steps >= 1:
            kitchen.call("PUT", f"/orders/{order_id}/status", {"status": "accepted"})
        if steps >= 2:
            kitchen.call("PUT", f"/orders/{order_id}/status", {"status": "preparing"})
            path = f"/deliveries/{order_id}"
            until("a delivery", lambda: drivers.client.get(path).is_success)
            drivers.call("POST", f"{path}/assign", {"driver_id": DRIVER})
        if steps >= 3:
            kitchen.call("PUT", f"/orders/{order_id}/status", {"status": "ready"})
            phone.call("PUT", f"{path}/status", {"status": "picked_up"})
        if steps >= 4:
            phone.call("PUT", f"{path}/status", {"status": "delivered"})

            def delivered():
                return customer.call("GET", f"/orders/{order_id}")["status"] == "delivered"

            until("the end of an order", delivered)
    for item in items:
        customer.call("POST", "/cart/items", {
            "restaurant_id": first, "item_id": item, "quantity": 2})
    return {
        "restaurant_id": [first, second], "category_id": [category], "item_id": items + more,
        "driver_id": [DRIVER, 6], "order_id": orders, "customer_id": [CUSTOMER], "line_id": [1, 2],
        "spare": {"restaurant_id": [spare], "category_id": [spare_category],
                  "item_id": spare_items},
    }
