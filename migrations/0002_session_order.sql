ALTER TABLE "sessions" ADD COLUMN "ordinal" bigint;--> statement-breakpoint
UPDATE "sessions" SET "ordinal" = "numbered"."ordinal" FROM (
	SELECT "id", row_number() OVER (ORDER BY "created_at") AS "ordinal" FROM "sessions"
) AS "numbered" WHERE "sessions"."id" = "numbered"."id";--> statement-breakpoint
ALTER TABLE "sessions" ALTER COLUMN "ordinal" SET NOT NULL;--> statement-breakpoint
ALTER TABLE "sessions" ALTER COLUMN "ordinal" ADD GENERATED ALWAYS AS IDENTITY (sequence name "sessions_ordinal_seq" INCREMENT BY 1 MINVALUE 1 MAXVALUE 9223372036854775807 START WITH 1 CACHE 1);--> statement-breakpoint
SELECT setval('sessions_ordinal_seq', count(*) + 1, false) FROM "sessions";
