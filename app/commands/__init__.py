"""The commands of `burnish`, a file a subject. They are clients: they talk HTTP, and open no database but for keys."""
