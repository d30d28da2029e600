import type { auditEvents } from '../db/tables.ts'
import type { AuditEvent, Origin } from './events.ts'

export type AuditRow = Omit<typeof auditEvents.$inferInsert, 'id'>

/** The members that an event may have, whatever it is. */
type AnyEvent = { event: AuditEvent['event'] } & Partial<
  Record<'sub' | 'client' | 'kid' | 'jti' | 'by', string>
>

/**
 * What a row tells of an event. Its subject is whom or what the event is about: an account, a service, a key or a token. Its actor is
 * who did it to them, and nobody where they did it themselves, or it was due. All else that the event has stands in its details.
 *
 * @param at in milliseconds since the epoch
 */
export function rowOf(event: AuditEvent, origin: Origin | undefined, at: number): AuditRow {
  const { event: name, sub, client, kid, jti, by, ...details }: AnyEvent = event
  return {
    at: new Date(at),
    event: name,
    subject: sub ?? client ?? kid ?? jti ?? null,
    actor: by ?? null,
    requestId: origin?.requestId ?? null,
    address: origin?.address ?? null,
    details,
  }
}
