"""Talking to the kube-apiserver, in the order data flows.

`resources` say where a kind lives and how its bytes become one of `run.models`, `client` sends single requests, which
are `observed`, `stories` finds the Story of a run, `list_watch` follows a whole collection as `changes` to what it has
`shown`. `connection` keeps them authenticated with what `credentials` reads: the `token` of a service account, or
`by_kubeconfig` a `kubeconfig`, which leads to a `route` and a `user`, an `exec_plugin`'s answer, or a token that `oidc`
renews and `write_back` keeps. `errors` name what can go wrong.

kubernetes_asyncio serves `oidc` alone. Its models cost 200 times the decoding time, its Watch gives up when a
resourceVersion expires, its HTTP session starts a thread's job for every request, and it reads kubeconfigs otherwise
than kubectl (ADR 8).
"""
