"""What makes a process of a service: its start, its end, and what the kubelet sees of it.

`start` checks the environment before anything is imported that reads it, `service` makes connections and ends in order,
`health` serves /livez, /readyz and /metrics, `insist` waits for a dependency that is away.
"""
