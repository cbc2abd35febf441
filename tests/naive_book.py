"""The slow, obvious twin of `nodes.feeds.order_book_kernel`: one dict of orders; everything else is looked up in it."""

from dataclasses import dataclass, field

BID, ASK = 0, 1


@dataclass
class Order:
    symbol: int
    side: int
    price: int
    size: int


@dataclass
class NaiveBook:
    orders: dict[int, Order] = field(default_factory=dict)
    duplicates: int = 0
    overdrawn: int = 0

    def add(self, symbol: int, side: int, order_id: int, price: int, size: int) -> bool:
        """Put a new order into the book; False when its id is there."""
        if order_id in self.orders:
            self.duplicates += 1
            return False
        self.orders[order_id] = Order(symbol, side, price, size)
        return True

    def reduce(self, order_id: int, size: int) -> int:
        """Take shares off an order; return how many it lost."""
        order = self.orders[order_id]
        self.overdrawn += size > order.size
        taken = min(size, order.size)
        order.size -= taken
        if order.size == 0:
            del self.orders[order_id]
        return taken

    def change(self, order_id: int, price: int, size: int) -> None:
        """Give an order another price and size."""
        self.orders[order_id].price, self.orders[order_id].size = price, size
        if size == 0:
            del self.orders[order_id]

    def replace(self, order_id: int, new_id: int, price: int, size: int) -> bool:
        """Put another order in place of one."""
        old = self.orders.pop(order_id)
        return self.add(old.symbol, old.side, new_id, price, size)

    def clear(self, symbol: int) -> None:
        """Take away every order of a symbol."""
        self.orders = {order_id: order for order_id, order in self.orders.items() if order.symbol != symbol}

    def levels(self, symbol: int, side: int) -> list[tuple[int, int, int]]:
        """(price, size, orders) of a side from the best on."""
        found: dict[int, tuple[int, int]] = {}
        for order in self.orders.values():
            if (order.symbol, order.side) == (symbol, side):
                size, count = found.get(order.price, (0, 0))
                found[order.price] = (size + order.size, count + 1)
        return [(price, *found[price]) for price in sorted(found, reverse=side == BID)]

    def best(self, symbol: int, side: int) -> tuple[int, int] | None:
        """Price and size at the best of a side."""
        levels = self.levels(symbol, side)
        return levels[0][:2] if levels else None
