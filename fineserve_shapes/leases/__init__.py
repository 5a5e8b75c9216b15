"""Who may send what, and what became of it: state machines and their messages. No sockets, and no clock of its own."""
