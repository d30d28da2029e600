ALTER TABLE "signing_keys" ALTER COLUMN "sealed_private_key" DROP NOT NULL;--> statement-breakpoint
ALTER TABLE "signing_keys" ADD COLUMN "active_since" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "signing_keys" ADD COLUMN "retiring_since" timestamp with time zone;--> statement-breakpoint
CREATE UNIQUE INDEX "one_next_key" ON "signing_keys" USING btree ("state") WHERE "signing_keys"."state" = 'next';