"""The demo: a page that sends mail from Fly Machines, and a mailbox that stands in for Mailjet on a laptop."""
