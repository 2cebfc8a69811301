"""Talking to the kube-apiserver, in the order data flows.

`models` are the fields of bobrapet's kinds that Exeunt uses, `resources` say where a kind lives and how it is decoded,
`client` sends single requests, `list_watch` follows a whole collection, `connection` keeps them authenticated with
what `credentials` reads, `errors` name what can go wrong. kubernetes_asyncio supplies configuration and auth plugins.
Its models, its Watch and its HTTP session are not used: they cost 200 times the decoding time, give up when a
resourceVersion expires, and start a thread's job for every request.
"""
