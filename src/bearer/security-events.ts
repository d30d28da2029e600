/**
 * How the feed tells of what was taken back: as security events (RFC 8417) about a subject (RFC 9493, and the formats `jwt_id`
 * and `complex` of SSF 1.0). Tokens and sessions have events that OpenID has named; generations and keys are latchkey's own.
 * They are not signed one by one: whoever reads the feed has asked its issuer for it.
 */
import { isId } from './claims.ts'
import {
  generationSubject,
  parseGenerationSubject,
  type RevocationEntry,
  type RevocationScope,
} from './revoked-entries.ts'

const eventTypes: Record<RevocationScope, string> = {
  token: 'https://schemas.openid.net/secevent/oauth/event-type/token-revoked',
  session: 'https://schemas.openid.net/secevent/caep/event-type/session-revoked',
  generation: 'urn:latchkey:event-type:generation-revoked',
  key: 'urn:latchkey:event-type:key-revoked',
}

type Subject =
  | { format: 'jwt_id'; iss: string; jti: string }
  | { format: 'complex'; session: { format: 'opaque'; id: string } }
  | { format: 'iss_sub'; iss: string; sub: string }
  | { format: 'opaque'; id: string }

export interface SecurityEvent {
  iss: string
  /** Of the event, a UUID: what came twice has the same. */
  jti: string
  /** When it was recorded, in seconds since the epoch. */
  iat: number
  sub_id: Subject
  /** One, by its type. */
  events: Record<
    string,
    {
      /** When nothing under it can be alive any more, in seconds since the epoch: it may be forgotten then. */
      expires_at: number
      /** The `ver` of the tokens, where it is a generation. */
      ver?: number
    }
  >
}

export function toSecurityEvent(
  { scope, subject, expiresAt }: RevocationEntry,
  { iss, jti, iat }: Pick<SecurityEvent, 'iss' | 'jti' | 'iat'>,
): SecurityEvent {
  const { sub, ver } = parseGenerationSubject(subject)
  const subjects: Record<RevocationScope, Subject> = {
    token: { format: 'jwt_id', iss, jti: subject },
    session: { format: 'complex', session: { format: 'opaque', id: subject } },
    generation: { format: 'iss_sub', iss, sub },
    key: { format: 'opaque', id: subject },
  }
  const detail = { expires_at: expiresAt, ...(scope === 'generation' && { ver }) }
  return { iss, jti, iat, sub_id: subjects[scope], events: { [eventTypes[scope]]: detail } }
}

/** @throws TypeError for anything else: what cannot be read must not be passed over */
export function fromSecurityEvent({ sub_id, events }: SecurityEvent): RevocationEntry {
  for (const [scope, type] of Object.entries(eventTypes) as [RevocationScope, string][]) {
    const detail = events[type]
    if (!detail) continue
    const subject = readers[scope](sub_id, detail.ver)
    if (subject !== undefined && Number.isFinite(detail.expires_at))
      return { scope, subject, expiresAt: detail.expires_at }
  }
  throw new TypeError(`this is no revocation that is known here: ${Object.keys(events)}`)
}

const ifId = (id: string): string | undefined => (isId(id) ? id : undefined)

const readers: Record<RevocationScope, (subject: Subject, ver: number | undefined) => string | undefined> = {
  token: (subject) => (subject.format === 'jwt_id' ? ifId(subject.jti) : undefined),
  session: (subject) => (subject.format === 'complex' ? ifId(subject.session.id) : undefined),
  generation: (subject, ver) =>
    subject.format === 'iss_sub' && isId(subject.sub) && ver !== undefined && Number.isSafeInteger(ver)
      ? generationSubject(subject.sub, ver)
      : undefined,
  key: (subject) => (subject.format === 'opaque' && subject.id !== '' ? subject.id : undefined),
}
