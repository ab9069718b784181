"""What a model on disk is: headers, families, folders, profiles, safety. No torch, no sockets, no database."""
