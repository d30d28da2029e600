ALTER TABLE "refresh_tokens" ADD COLUMN "used_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "refresh_tokens" ADD COLUMN "successor" "bytea";--> statement-breakpoint
ALTER TABLE "refresh_tokens" ADD COLUMN "sealed_successor" "bytea";--> statement-breakpoint
ALTER TABLE "sessions" ADD COLUMN "created_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "sessions" ADD COLUMN "last_used_at" timestamp with time zone;--> statement-breakpoint
ALTER TABLE "sessions" ADD COLUMN "idle_expires_at" timestamp with time zone;--> statement-breakpoint
-- Until now a session had one refresh token, whose expiry was its idle end.
UPDATE "sessions" SET "created_at" = "auth_time", "last_used_at" = "auth_time", "idle_expires_at" = coalesce(
	(SELECT max("refresh_tokens"."expires_at") FROM "refresh_tokens" WHERE "refresh_tokens"."session_id" = "sessions"."id"),
	"auth_time");--> statement-breakpoint
ALTER TABLE "sessions" ALTER COLUMN "created_at" SET NOT NULL;--> statement-breakpoint
ALTER TABLE "sessions" ALTER COLUMN "last_used_at" SET NOT NULL;--> statement-breakpoint
ALTER TABLE "sessions" ALTER COLUMN "idle_expires_at" SET NOT NULL;--> statement-breakpoint
CREATE INDEX "refresh_tokens_sealed_index" ON "refresh_tokens" USING btree ("session_id") WHERE "refresh_tokens"."sealed_successor" is not null;--> statement-breakpoint
ALTER TABLE "refresh_tokens" DROP COLUMN "expires_at";
