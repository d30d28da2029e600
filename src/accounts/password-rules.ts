/**
 * What may be chosen as a password (NIST SP 800-63B-4 §3.1.1.2, OWASP ASVS 5.0 V6.2): what is long enough, and not among what
 * is tried first. There are no rules of composition.
 */
import { dictionary } from '@zxcvbn-ts/language-common'
import { Outcome } from '../outcomes.ts'
import { fold, usernameLength } from './usernames.ts'

export interface PasswordRules {
  /** @throws Outcome `weak_password` or `invalid_request` if this account may not have this password */
  assertAcceptable(password: string, account: { username: string; email?: string | null | undefined }): void
}

export interface PasswordRulesOptions {
  /** In code points of the NFC form. */
  minLength: number
  /** What people know the service by. */
  serviceName: string
}

const maxLength = 256

const lengthOf = (text: string) => [...text].length

export function createPasswordRules({ minLength, serviceName }: PasswordRulesOptions): PasswordRules {
  const commonPasswords = new Set(
    dictionary['passwords-common'].filter((word) => lengthOf(word) >= minLength).map(fold),
  )

  /** One short piece, again and again: no harder to guess than the piece. Bounded, for folding makes some passwords very long. */
  const repetition = new RegExp(`^(.{1,${minLength - 1}}?)\\1+$`, 'su')

  /** What is wrong with a password that is long enough. */
  function findWeakness(password: string, username: string, email: string): string | undefined {
    const folded = fold(password)
    if (commonPasswords.has(folded)) return 'This password is one of those that are tried first.'
    if (repetition.test(folded)) return 'This password is a short one that is repeated.'
    const names = {
      'your username': username,
      'the name in your e-mail address': email.slice(0, email.lastIndexOf('@')),
      'the name of this service': serviceName,
    }
    for (const [whose, name] of Object.entries(names))
      if (lengthOf(name) >= usernameLength.min && folded.includes(fold(name)))
        return `A password must not have ${whose} in it.`
    return undefined
  }

  return {
    assertAcceptable(password, { username, email }) {
      const length = lengthOf(password.normalize('NFC'))
      if (length > maxLength)
        throw new Outcome('invalid_request', {
          detail: `A password may have at most ${maxLength} characters.`,
        })
      const weakness =
        length < minLength
          ? `A password needs at least ${minLength} characters.`
          : findWeakness(password, username, email ?? '')
      if (weakness !== undefined)
        throw new Outcome('weak_password', {
          detail: `${weakness} A few words that only you would put together will do.`,
        })
    },
  }
}
