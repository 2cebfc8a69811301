"""Talking to the kube-apiserver, in the order data flows.

`models` are the fields of bobrapet's kinds that Exeunt uses, `resources` say where a kind lives and how it
is decoded, `client` sends single requests, `list_watch` follows a whole collection, `credentials` keep the
session authenticated, `errors` name what can go wrong. kubernetes_asyncio supplies configuration, auth
plugins and the TLS session; its models and its Watch are not used: they cost 200 times the decoding time,
and the Watch gives up when a resourceVersion expires.
"""
