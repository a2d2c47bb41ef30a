"Runs migrations on the connection that the caller hands over, inside the caller's transaction and lock."
from alembic import context

context.configure(connection=context.config.attributes["connection"])
with context.begin_transaction(): context.run_migrations()
