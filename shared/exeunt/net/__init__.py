"""What every connection needs, whoever is at the other end.

`proxies` decides which proxy a request takes, `tls` whom a client trusts, `listening` opens the sockets of servers,
`keepalive` finds out that the other end is gone.
"""
