/** What people are told of their account, so that they notice what was not them. */
import type { Database } from '../db/connect.ts'
import type { MailQueue } from '../mail/queue.ts'
import type { Letter } from '../mail/transport.ts'
import type { User } from './users.ts'

export type Notice = keyof typeof notices

export interface Notices {
  /** Mailed to their verified address, if there is one, as soon as the transaction is committed. */
  tell(
    tx: Database,
    user: Pick<User, 'username' | 'email' | 'emailVerifiedAt'>,
    notice: Notice,
  ): Promise<void>
  /** @returns what is to be mailed */
  compose(job: { to?: string; username?: string; notice?: string }): Promise<Letter>
}

export interface NoticesOptions {
  queue: MailQueue | undefined
  serviceName: string
}

export const noticeJob = 'notice'

const notices = {
  password_changed: 'has another password',
  email_changed: 'has another address, and this one counts no more',
  factor_enrolled: 'takes a code of an authenticator app at each login from now on',
  factor_removed: 'takes the password alone at each login from now on',
}

export const createNotices = ({ queue, serviceName }: NoticesOptions): Notices => ({
  async tell(tx, { username, email, emailVerifiedAt }, notice) {
    if (email === null || emailVerifiedAt === null) return
    await queue?.add(tx, { kind: noticeJob, payload: { to: email, username, notice } })
  },

  async compose({ to = '', username = '', notice = '' }) {
    return {
      to,
      subject: `Your account at ${serviceName}`,
      text: `${username} at ${serviceName} ${notices[notice as Notice]}. That was you? Then all is well. If it was not, ask for another
password, end all sessions, and tell whoever runs ${serviceName}.
`,
    }
  },
})
