"""What a child may do, and what holds it to that. Linux; elsewhere `report.py` says what is missing.

Each wall is tried, the next one is used where it is missing, and the report says which one holds:

| what | by | else | else |
| --- | --- | --- | --- |
| no network | a network namespace with a loopback alone | a seccomp filter without sockets | - |
| files | a mount namespace that holds what `paths.py` names, and Landlock with the same names | one of both | - |
| other processes | a PID namespace | Landlock's scopes | the worker's memory alone is closed |
| number of processes | a cgroup | RLIMIT_NPROC where the user is not root | a watchdog |
| memory | a cgroup, and the watchdog | the watchdog on resident memory | - |
| disk | a watchdog on the attempt's folder; RLIMIT_FSIZE for each file | - | - |
| privileges | no capabilities, no new privileges | - | - |
| system calls | a seccomp filter | - | - |
| life | PR_SET_PDEATHSIG, the PID namespace, a keeper that reaps orphans | the supervisor kills the group | - |
| secrets | an environment of known names | - | - |
"""
