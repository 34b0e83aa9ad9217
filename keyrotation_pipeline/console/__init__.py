"""The console: the page where people look. It shows what `keyrotation status` says, and acts on nothing."""
