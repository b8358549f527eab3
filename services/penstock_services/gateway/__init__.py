"""The gateway: takes events and webhooks over HTTP and answers 202 once Redis has them."""
