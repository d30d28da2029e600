import type { FastifyInstance } from 'fastify'
import fp from 'fastify-plugin'
import { type Addresses, createAddresses, verificationJob } from '../accounts/addresses.ts'
import { type Administration, createAdministration } from '../accounts/administration.ts'
import { createAdmission } from '../accounts/admission.ts'
import { createDirectory, type Directory } from '../accounts/directory.ts'
import { ensureFirstAdmin } from '../accounts/first-admin.ts'
import { createGuesses } from '../accounts/guesses.ts'
import { createLogin, type LogIn } from '../accounts/login.ts'
import { createMailTokens } from '../accounts/mail-tokens.ts'
import { createMailboxLimit } from '../accounts/mailbox-limit.ts'
import { createMailedCodes, loginCodeJob } from '../accounts/mailed-codes.ts'
import { type CompleteLogin, createMfaLogin } from '../accounts/mfa-login.ts'
import { createNotices, noticeJob } from '../accounts/notices.ts'
import { createOwnFactor } from '../accounts/own-factor.ts'
import { createOwnPassword } from '../accounts/own-password.ts'
import { type ChangePassword, createPasswordChange } from '../accounts/password-change.ts'
import { createPasswordRules } from '../accounts/password-rules.ts'
import { createPasswords } from '../accounts/passwords.ts'
import { createReauthentication, type Reauthenticate } from '../accounts/reauthentication.ts'
import { createRecovery, forgotJob, type Recovery, resetJob } from '../accounts/recovery.ts'
import { createRegistration } from '../accounts/registration.ts'
import { createSecondFactors, type SecondFactors } from '../accounts/second-factors.ts'
import { type Account, accountOf, findAccount, findUserByName } from '../accounts/users.ts'
import type { Origin } from '../audit/events.ts'
import type { Config } from '../config.ts'
import { Outcome } from '../outcomes.ts'

declare module 'fastify' {
  interface FastifyInstance {
    accounts: {
      register(
        account: { username: string; password: string; email?: string },
        origin: Origin,
      ): Promise<Account>
      logIn: LogIn
      completeLogin: CompleteLogin
      reauthenticate: Reauthenticate
      changePassword: ChangePassword
      factors: SecondFactors
      recovery: Recovery
      addresses: Addresses
      find(id: string): Promise<Account | undefined>
      /** By any spelling of the name. @throws Outcome `not_found` */
      findIdByName(username: string): Promise<string>
    } & Administration &
      Directory
  }
}

export interface AccountsOptions {
  config: Pick<
    Config,
    | 'serviceName'
    | 'passwordMinLength'
    | 'passwords'
    | 'firstAdmin'
    | 'limits'
    | 'appUrl'
    | 'mailSecondFactor'
  >
}

export default fp(
  async function accounts(app: FastifyInstance, { config }: AccountsOptions) {
    const { clock, audit, sessions, accessTokens } = app
    const { assertFresh } = sessions
    const { revoke, isRefused } = app.revocation
    const { db, sealer } = app.database
    const { serviceName, appUrl, passwordMinLength: minLength } = config
    const queue = app.mail?.queue

    const passwords = await createPasswords(config.passwords)
    const passwordRules = createPasswordRules({ minLength, serviceName })
    const guesses = createGuesses({ db, clock, limit: config.limits.account, audit })
    const mailTokens = createMailTokens({ db, clock, audit })
    const mayWriteTo = createMailboxLimit({ db, clock, audit })
    const notices = createNotices({ queue, serviceName })
    const writing = { db, clock, queue, mailTokens, mayWriteTo, notices, audit, appUrl, serviceName }
    const addresses = createAddresses({ ...writing, assertFresh })
    const recovery = createRecovery({ ...writing, accessTokens, passwordRules, passwords, guesses, revoke })
    const register = createRegistration({ db, clock, passwordRules, passwords, addresses, guesses, audit })
    if (config.firstAdmin) await ensureFirstAdmin({ db, register, audit, ...config.firstAdmin })

    const directory = createDirectory({ db })
    const factors = createSecondFactors({
      db,
      clock,
      sealer,
      serviceName,
      assertFresh,
      guesses,
      notices,
      audit,
    })
    const mailedCodes =
      config.mailSecondFactor && queue ? createMailedCodes({ db, clock, queue, serviceName }) : undefined
    const admission = createAdmission({ sessions, isRefused, guesses, audit })
    const { challenge, completeLogin } = createMfaLogin({ db, clock, factors, mailedCodes, admission, audit })
    const proveOwner = createOwnPassword({ db, passwords, guesses, audit })
    const proveFactor = createOwnFactor({ db, factors, audit })

    app.mail?.composeBy({
      [forgotJob]: recovery.answer,
      [resetJob]: recovery.composeLink,
      [verificationJob]: addresses.composeVerification,
      [noticeJob]: notices.compose,
      [loginCodeJob]: async ({ challenge = '' }) => await mailedCodes?.compose(Buffer.from(challenge, 'hex')),
    })

    app.decorate('accounts', {
      register: async (account, origin) => accountOf(await register(account, origin)),
      logIn: createLogin({ db, passwords, guesses, challenge, admission, audit }),
      completeLogin,
      reauthenticate: createReauthentication({ clock, accessTokens, proveOwner, proveFactor, revoke, audit }),
      changePassword: createPasswordChange({
        clock,
        accessTokens,
        assertFresh,
        proveOwner,
        passwordRules,
        passwords,
        guesses,
        notices,
        revoke,
        audit,
      }),
      factors,
      recovery,
      addresses,
      find: (id: string) => findAccount(db, id),
      async findIdByName(username) {
        const user = await findUserByName(db, username)
        if (!user) throw new Outcome('not_found')
        return user.id
      },
      ...directory,
      ...createAdministration({
        directory,
        clock,
        accessTokens,
        sessions,
        register,
        factors,
        guesses,
        revoke,
        audit,
      }),
    })
  },
  {
    name: 'accounts',
    dependencies: ['clock', 'audit', 'database', 'revocation', 'tokens', 'sessions', 'mail'],
  },
)
