"""Chat templates: rendering them within limits of time and memory, and what can be proven about one."""
