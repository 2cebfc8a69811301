"""What every connection needs, whoever is at the other end.

`proxies` decides which proxy a request takes, `tls` whom a client trusts, `listening` opens the sockets of servers,
`http_server` answers there what is asked of every service, `keepalive` finds out that the other end is gone,
`other_clock` how far its clock is from ours (`clock_offset`).
"""
