"""Django: the client for threads, jobs that are submitted once a transaction is committed, and an outbox.

```python
INSTALLED_APPS = [..., "penstock.django"]
PENSTOCK = {"source": "shop-web"}           # and url, topology, as for penstock.sync.Penstock.connect

with transaction.atomic():
    order = Order.objects.create(...)
    submit_in_transaction("order.placed", {"id": order.id})     # with the order, or not at all
```
"""

from penstock.extras import extra

with extra("django"):
    from penstock.django.calls import mesh, submit_in_transaction, submit_on_commit
    from penstock.django.middleware import TraceMiddleware

__all__ = ["TraceMiddleware", "mesh", "submit_in_transaction", "submit_on_commit"]
