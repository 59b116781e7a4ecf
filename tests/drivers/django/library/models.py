"""Tables that are sharded, for suite.py."""

import uuid

from django.contrib.postgres.fields import ArrayField
from django.db import models


class Author(models.Model):
    """Sharded by its key."""

    author_id = models.BigIntegerField(primary_key=True)
    name = models.TextField()

    class Meta:
        db_table = "authors"


class Book(models.Model):
    """On the shard of its author."""

    book_id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    author = models.ForeignKey(Author, models.CASCADE, related_name="books", db_column="author_id")
    title = models.CharField(max_length=100)

    class Meta:
        db_table = "books"


class Item(models.Model):
    id = models.BigIntegerField(primary_key=True)
    amount = models.DecimalField(max_digits=30, decimal_places=6, null=True)
    ratio = models.FloatField(null=True)
    label = models.TextField(null=True)
    raw = models.BinaryField(null=True)
    flag = models.BooleanField(null=True)
    day = models.DateField(null=True)
    at = models.DateTimeField(null=True)
    span = models.DurationField(null=True)
    token = models.UUIDField(null=True)
    attrs = models.JSONField(null=True)
    tags = ArrayField(models.TextField(), null=True)
    addr = models.GenericIPAddressField(null=True)
    n = models.IntegerField(null=True)

    class Meta:
        db_table = "items"
