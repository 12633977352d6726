"""Makes a client of each document with openapi-python-client, and works with it."""

import importlib
import json
import pathlib
import subprocess
import sys
import uuid

import seed

CONFIG = {"post_hooks": []}
METHODS = ("get", "post", "put", "delete", "patch")


def generate(service, out):
    """Makes the client of one service; returns its package's name and what is wrong with it."""
    package = f"{service.replace('-', '_')}_client"
    config = out / "clients.json"
    config.write_text(json.dumps(CONFIG))
    command = [
        pathlib.Path(sys.executable).parent / "openapi-python-client", "generate",
        "--path", out / f"{service}-openapi.json", "--output-path", out / package,
        "--meta", "none", "--overwrite", "--fail-on-warning", "--config", config,
    ]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return package, [f"{service}: no client can be made: {made.stdout}{made.stderr}"]
    document = json.loads((out / f"{service}-openapi.json").read_text())
    names = {
        operation["operationId"]
        for item in document["paths"].values()
        for method, operation in item.items() if method in METHODS
    }
    there = {path.stem for path in (out / package / "api").glob("*/*.py")}
    return package, [f"{service}: the client has no {name}" for name in sorted(names - there)]


def work(urls, ids, token, packages):
    """Places and lists orders, reads a menu and posts a position."""

    def client(service, role, subject):
        package = importlib.import_module(packages[service])
        return package.AuthenticatedClient(
            base_url=urls[service], token=token(role, subject), raise_on_unexpected_status=True)

    def operation(service, name):
        return importlib.import_module(f"{packages[service]}.api.{name}")

    def models(service):
        return importlib.import_module(f"{packages[service]}.models")

    restaurant = ids["restaurant_id"][0]
    menus = client("menu-api", "customer", seed.CUSTOMER)
    menu = operation("menu-api", "menus.get_menu").sync(restaurant, client=menus)
    item = menu.categories[0].items[0]
    assert (item.price.amount, item.price.currency) == (1450, "USD"), item

    order = models("order-api")
    customer = client("order-api", "customer", seed.CUSTOMER)
    placed = operation("order-api", "orders.create_order").sync(
        client=customer, idempotency_key=str(uuid.uuid4()),
        body=order.NewOrder(
            restaurant_id=restaurant, delivery_address="1 Main St", payment_method="credit_card",
            items=[order.Line(item_id=item.item_id, quantity=2)]))
    assert placed.total.amount == 2 * 1450 + 300, placed
    page = operation("order-api", "orders.list_orders").sync(client=customer)
    assert page.orders[0].order_id == placed.order_id, page

    phone = client("logistics", "driver", seed.DRIVER)
    accepted = operation("logistics", "locations.post_location").sync(
        seed.DRIVER, client=phone,
        body=models("logistics").Fix(latitude=37.78, longitude=-122.42))
    assert accepted.message_id, accepted


def check(urls, ids, token, out):
    """Returns what is wrong."""
    packages, wrong = {}, []
    for service in urls:
        packages[service], faults = generate(service, out)
        wrong += faults
    if not wrong:
        sys.path.insert(0, str(out))
        work(urls, ids, token, packages)
    return wrong
